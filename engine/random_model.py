"""Models of known shapes with random weights: benchmarks and tests need the sizes, not the sense.

`config_of` is for weights that are made on the device (`random_weights` in engine/weights.py). `write_random_model`
makes a Hugging Face folder, where the way from the file matters: its weights are random bf16 bits of a narrow range of
exponents, finite, neither all alike nor zero (some devices run faster on zeros). Its tokenizer has one token a byte.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.checkpoint import expected_tensors
from engine.config import ModelConfig
from engine.errors import ModelError
from engine.fields import Fields
from engine.generation_config import GenerationConfig

_COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 8.0},
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "toy": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 256,
        "vocab_size": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
}


def config_of(shape: str) -> ModelConfig:
    """The configuration of `shape`, a key of SHAPES. Raises ModelError for another name."""
    return ModelConfig.from_hf_fields(Fields(_hf_fields(shape), shape), GenerationConfig(shape))


def _hf_fields(shape: str) -> dict[str, Any]:
    if shape not in SHAPES:
        raise ModelError(f"no random model is called {shape!r}; choose one of {', '.join(SHAPES)}")
    return _COMMON | SHAPES[shape]


def write_random_model(shape: str, folder: Path, seed: int = 0) -> None:
    """Write a model of `shape` (a key of SHAPES) to `folder`, whole or not at all.

    Raises ModelError for another name.
    """
    fields = _hf_fields(shape)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        (aside / "config.json").write_text(json.dumps(fields))
        _write_tokenizer(aside)
        with (aside / "model.safetensors").open("wb") as file:
            _write_tensors(file, ModelConfig.from_hf(aside), np.random.default_rng(seed))
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")


def _write_tensors(file: BinaryIO, config: ModelConfig, random: np.random.Generator) -> None:
    """The safetensors format: the header's length, the header, then every tensor's bytes."""
    header, offset = {}, 0
    shapes = expected_tensors(config)
    for name, shape in shapes.items():
        end = offset + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for shape in shapes.values():
        _random_bf16(random, prod(shape)).tofile(file)


def _random_bf16(random: np.random.Generator, count: int) -> np.ndarray:
    """Bits of bf16 values with a random sign, a random fraction, and an exponent of 2^-8 to 2^-5."""
    bits = np.frombuffer(random.bytes(2 * count), np.uint16)
    exponent = ((bits >> np.uint16(7)) & np.uint16(3)) + np.uint16(127 - 8)
    return (bits & np.uint16(0x807F)) | (exponent << np.uint16(7))
