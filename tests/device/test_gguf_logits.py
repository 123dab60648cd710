"""A GGUF model gives the logits of the same weights as safetensors, the same bits: on the device both are bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings.device import Device
from engine import LLM
from tests.quantized_model import write_as_safetensors, write_quantized
from tests.reference.gguf_blocks import BLOCKS
from tests.tiny_model import GGUF_METADATA, read_config
from tests.tiny_tokenizer import byte_level_metadata

# 256 values, the longest block, in each row. One layer: what the types differ in ends with the load.
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 288}
METADATA = {
    **GGUF_METADATA,
    **byte_level_metadata(),
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 256,
    "llama.block_count": 1,
    "llama.vocab_size": 288,
}
Q4_K_M = {"embed_tokens": "Q6_K", "lm_head": "Q6_K", "v_proj": "Q6_K", "down_proj": "Q6_K", "": "Q4_K"}
FILES = {kind: {"": kind} for kind in ("F32", "F16", "BF16", *BLOCKS)} | {"mixed": Q4_K_M}
PROMPT = list(range(3, 23))


def logits(model: Path, device: Device) -> np.ndarray:
    with LLM(model=str(model), device=device.kind, max_model_len=64, max_num_seqs=1) as llm:
        return llm.score(PROMPT)


@pytest.mark.parametrize("kinds", FILES.values(), ids=FILES)
def test_logits_are_those_of_the_same_weights_as_safetensors(
    tmp_path: Path, device: Device, kinds: dict[str, str]
) -> None:
    tied = kinds is not Q4_K_M  # the mixed one has a matrix of its own for the output
    config = read_config(tmp_path, **SHAPE, tie_word_embeddings=tied)
    weights = write_quantized(tmp_path / "model.gguf", config, kinds, METADATA)
    write_as_safetensors(tmp_path, weights)
    write_tokenizer(tmp_path)
    got = logits(tmp_path / "model.gguf", device)
    assert got.shape == (len(PROMPT), 288) and np.isfinite(got).all() and got.std() > 0.1
    assert np.array_equal(got, logits(tmp_path, device))


def write_tokenizer(folder: Path) -> None:
    from engine.tokenizer import load_tokenizer

    backend: Any = load_tokenizer(folder / "model.gguf").backend
    backend.save(str(folder / "tokenizer.json"))
