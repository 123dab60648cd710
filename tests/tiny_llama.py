"""Small Llama models whose logits transformers computed once: shapes, weights from a seed, and the prompts.

The weights are not stored. They are made from PCG64's raw bits, which NumPy promises never to change (the methods that
draw from a distribution may change), so the script that asked transformers and the tests that ask the engine make the
same ones.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from engine.checkpoint import expected_tensors
from engine.config import ModelConfig
from tests.tiny_model import write_json, write_safetensors

# Standard deviation of a matrix's elements, times the square root of its inputs: 1 keeps the size of what passes
# through. 1.4 for queries and keys spreads the scores by about 2, so that attention prefers some tokens; 2 spreads the
# logits by 2.
GAINS = {"q_proj": 1.4, "k_proj": 1.4, "embed_tokens": 2.0, "lm_head": 2.0}
PROMPT_LENGTHS = (5, 37, 83)  # within a page, within a tile of 64 queries, beyond one
LINEAR = {"rope_type": "linear", "factor": 4.0}
# An original context of 64 puts pairs on every branch of the rule: kept, blended and divided.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TinyLlama:
    """One shape: `heads` query heads over `kv_heads`, of `head_dim`; hidden, MLP and vocabulary sizes; a seed."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    tied: bool
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float = 10000.0
    seed: int = 0

    @property
    def hf_config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden + 8,
            "num_hidden_layers": 2,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": 384 + self.hidden // 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "max_position_embeddings": 256,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }

    @cached_property
    def config(self) -> ModelConfig:
        """What the engine reads from that config.json."""
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "config.json", self.hf_config)
            return ModelConfig.from_hf(folder)

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every tensor by its Hugging Face name, as float32 numbers that bf16 holds exactly."""
        shapes = expected_tensors(self.config)
        return {name: self._tensor(name, shape) for name, shape in shapes.items()}

    @property
    def lm_head(self) -> NDArray[np.float64]:
        """The matrix [V, H] that gives the logits."""
        name = "model.embed_tokens.weight" if self.tied else "lm_head.weight"
        return self.weights[name].astype(np.float64)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all weights: a fixture is of use only for the weights that it was made with."""
        crc = 0
        for values in self.weights.values():
            crc = zlib.crc32(float32_to_bf16(values).tobytes(), crc)
        return crc

    def prompt(self, length: int) -> list[int]:
        """`length` token ids."""
        raw = np.random.PCG64(self._seed(f"prompt of {length}")).random_raw(length)
        ids: list[int] = (raw % np.uint64(self.hf_config["vocab_size"])).tolist()
        return ids

    def write(self, folder: Path) -> Path:
        """The model as a Hugging Face folder in bf16, with a tokenizer that knows no text."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.hf_config)
        stored = {name: ("BF16", float32_to_bf16(values)) for name, values in self.weights.items()}
        write_safetensors(folder / "model.safetensors", stored)
        (folder / "tokenizer.json").write_text(_tokenizer_json(), "utf-8")
        return folder

    def _seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.name} {self.seed} {purpose}".encode())

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        bits = np.random.PCG64(self._seed(name)).random_raw(prod(shape)) >> np.uint64(11)
        uniform = bits.astype(np.float64) * 2.0**-52 - 1  # from -1 to 1
        values = 1 + uniform / 2 if len(shape) == 1 else uniform * sqrt(3) * self._standard_deviation(name, shape)
        return bf16_to_float32(float32_to_bf16(values.astype(np.float32))).reshape(shape)

    def _standard_deviation(self, name: str, shape: tuple[int, ...]) -> float:
        if "embed_tokens" in name and not self.tied:
            return 1.0  # the residual stream begins as a row of this table
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        return gain / sqrt(shape[1])


MODELS = {
    model.name: model
    for model in (
        TinyLlama("gqa1-d64", heads=2, kv_heads=2, head_dim=64, hidden=64, tied=False),
        TinyLlama("gqa2-d64-linear", heads=4, kv_heads=2, head_dim=64, hidden=72, tied=True, rope_scaling=LINEAR),
        TinyLlama("gqa3-d64", heads=3, kv_heads=1, head_dim=64, hidden=96, tied=True, rope_theta=100000.0),
        TinyLlama("gqa4-d128-llama3", heads=4, kv_heads=1, head_dim=128, hidden=128, tied=False, rope_scaling=LLAMA3),
        TinyLlama("gqa8-d80", heads=8, kv_heads=1, head_dim=80, hidden=80, tied=False),
        TinyLlama("gqa1-d96-llama3", heads=2, kv_heads=2, head_dim=96, hidden=104, tied=True, rope_scaling=LLAMA3),
        TinyLlama("gqa2-d80-linear", heads=2, kv_heads=1, head_dim=80, hidden=88, tied=False, rope_scaling=LINEAR),
        TinyLlama("gqa3-d128", heads=6, kv_heads=2, head_dim=128, hidden=120, tied=True, rope_theta=500000.0),
    )
}


def _tokenizer_json() -> str:
    """A vocabulary of one token: the engine wants a tokenizer, these tests give token ids."""
    tokenizer = Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>"))
    text: str = tokenizer.to_str()
    return text
