"""Weights in a GGUF model of llama architecture, dequantised to bf16 when they are asked for.

llama.cpp has names of its own for tensors, and its converter reorders the rows of the query and key projections
(engine/rotary_order.py). Both are undone here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.gguf_header import GgufTensor
from engine.gguf_split import read_gguf_model
from engine.mapped_file import DAMAGED, map_file
from engine.rotary_order import unpermute
from engine.rounding import round_to_bf16

ROPE_DIVISORS = "rope_freqs.weight"
_REMEDY = "quantise the model again, to Q8_0 or Q4_K for example, or update the gguf package"
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("pairs", "u1", 16)])
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name: str) -> str:
    """A GGUF tensor's Hugging Face name; a name that is not known stays as it is."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.weight"
    return _NAMES.get(name, name)


class GgufWeights:
    """The tensors of a GGUF model under their Hugging Face names; `config` is the model's configuration.

    Raises ModelError naming the file and the key or tensor: damaged, cut short, of a kind that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        header = read_gguf_model(path)
        self._maps = {part: map_file(part) for part in {path, *(tensor.path for tensor in header.tensors.values())}}
        for part, data in self._maps.items():
            _check_layout([tensor for tensor in header.tensors.values() if tensor.path == part], len(data))
        self.config = ModelConfig.from_gguf(header, self._rope_divisors(header.tensors.get(ROPE_DIVISORS)))
        stored = (tensor for name, tensor in header.tensors.items() if name != ROPE_DIVISORS)
        self._tensors = {hf_name(tensor.name): tensor for tensor in stored}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each stored tensor by name."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor dequantised and rounded to bf16 bits, in Hugging Face's row order."""
        tensor = self._tensors[name]
        stored = self._bytes(tensor)
        heads = {"attn_q": self.config.num_heads, "attn_k": self.config.num_kv_heads}
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            # Rows are quantised one by one, so they can be moved before they grow to 16 bits a value.
            stored = unpermute(stored.reshape(tensor.shape[0], -1), heads[kind]).reshape(-1)
        return _to_bf16(stored, tensor).reshape(tensor.shape)

    def close(self) -> None:
        """Let go of the files. Arrays handed out stay valid: each keeps its map alive."""
        self._tensors.clear()
        self._maps.clear()

    def _bytes(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        return np.frombuffer(self._maps[tensor.path], np.uint8, _nbytes(tensor), tensor.offset)

    def _rope_divisors(self, tensor: GgufTensor | None) -> tuple[float, ...]:
        """The frequency divisors of Llama 3.1 and its kin, which GGUF stores as a tensor."""
        if tensor is None:
            return ()
        if tensor.ggml_type != gguf.GGMLQuantizationType.F32:
            raise ModelError(f"{tensor.path}: tensor {tensor.name} is not stored as F32")
        divisors = self._bytes(tensor).view("<f4")
        if not (np.isfinite(divisors) & (divisors > 0)).all():
            raise ModelError(f"{self.source}: tensor {tensor.name} holds values that are not above 0")
        return tuple(float(divisor) for divisor in divisors)


def _check_layout(tensors: list[GgufTensor], nbytes: int) -> None:
    """Each tensor of a file must be of a type that can be read, in whole blocks, within the file and its own bytes."""
    position, previous = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        place = f"{tensor.path}: tensor {tensor.name}"
        if not is_supported(tensor.ggml_type):
            raise ModelError(f"{place} is stored as {_type_name(tensor.ggml_type)}, which is not supported; {_REMEDY}")
        block, _ = _blocks(tensor)
        if tensor.shape[-1] % block:
            raise ModelError(f"{place}: shape {list(tensor.shape)} does not come in whole blocks of {block}; {DAMAGED}")
        end = tensor.offset + _nbytes(tensor)
        if end > nbytes:
            raise ModelError(f"{place} ends at byte {end} of {nbytes}; the file is cut short, fetch it again")
        if tensor.offset < position:
            raise ModelError(f"{place} at byte {tensor.offset} overlaps {previous}; {DAMAGED}")
        position, previous = end, tensor.name


@cache
def is_supported(ggml_type: int) -> bool:
    """Whether blocks of this type can be dequantised: the gguf package knows how."""
    try:
        kind = gguf.GGMLQuantizationType(ggml_type)
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


def _type_name(ggml_type: int) -> str:
    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    return f"ggml type {ggml_type} ({known.get(ggml_type, 'unknown')})"


def _blocks(tensor: GgufTensor) -> tuple[int, int]:
    """Values in a block of the tensor's type, and the bytes that they take."""
    values, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.ggml_type)]
    return int(values), int(nbytes)


def _nbytes(tensor: GgufTensor) -> int:
    block, block_bytes = _blocks(tensor)
    return math.prod(tensor.shape) // block * block_bytes


def _to_bf16(stored: NDArray[np.uint8], tensor: GgufTensor) -> NDArray[np.uint16]:
    kind = gguf.GGMLQuantizationType(tensor.ggml_type)
    if kind == gguf.GGMLQuantizationType.BF16:
        return stored.view("<u2")
    block, block_bytes = _blocks(tensor)

    def piece(start: int, stop: int) -> NDArray[np.float32]:
        return dequantize(stored[start // block * block_bytes : stop // block * block_bytes], kind)

    return round_to_bf16(math.prod(tensor.shape), piece)


def dequantize(stored: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> NDArray[np.float32]:
    """The values of whole blocks of ggml type `kind`, flat."""
    with np.errstate(over="ignore", invalid="ignore"):  # a scale of inf or NaN is the file's affair, not a warning's
        if kind == gguf.GGMLQuantizationType.Q4_1:
            return _dequantize_q4_1(stored)
        # As one long row: the package goes through 16 rows at a time, three times slower where they are short.
        values: NDArray[np.float32] = gguf.dequantize(stored.reshape(1, -1), kind)
        return values.reshape(-1)


def _dequantize_q4_1(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Q4_1: 32 values a block, each scale * q + minimum; byte j holds the q of value j (low half) and of value j + 16.

    Bit for bit what the gguf package computes, in a third of its time: the default model is mostly this type, and the
    package's way took longer than everything else before its first token.
    """
    blocks = stored.view(_Q4_1)
    values = np.empty((blocks.size, 32), np.float32)
    values[:, :16] = blocks["pairs"] & 15
    values[:, 16:] = blocks["pairs"] >> 4
    values *= blocks["scale"].astype(np.float32)[:, None]
    values += blocks["minimum"].astype(np.float32)[:, None]
    return values.reshape(-1)
