"""Little GGUF models whose tensors are made of random blocks, and the same weights as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from engine.config import ModelConfig
from engine.gguf_model import unpermute
from tests.reference.gguf_blocks import BLOCKS, dequantized
from tests.tiny_model import add_value, gguf_name, random_weights, write_safetensors

Bytes = NDArray[np.uint8]
# Not zero and not huge: the values of a weight matrix.
USUAL_SCALES = np.array([2.0**-10, -(2.0**-10), 1.5 * 2.0**-9, 2.0**-8], np.float16)


def random_blocks(kind: str, count: int, scales: NDArray[np.float16], random: np.random.Generator) -> Bytes:
    """`count` blocks (values, of the plain types) of any bits, their halves drawn from `scales`."""
    if kind not in BLOCKS:
        plain = (random.choice(scales, count) * random.uniform(-1, 1, count)).astype(np.float32)
        if kind == "BF16":
            return (plain.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return plain.astype({"F32": np.float32, "F16": np.float16}[kind]).view(np.uint8)
    nbytes, halves, _ = BLOCKS[kind]
    blocks = random.integers(0, 256, (count, nbytes), np.uint8)
    for at in halves:
        blocks[:, at : at + 2] = random.choice(scales, (count, 1)).view(np.uint8)
    if kind == "Q6_K":  # signed scales of 16 values each; small, so that its values are like the others'
        blocks[:, 192:208] = random.integers(-8, 8, (count, 16)).astype(np.int8).view(np.uint8)
    return blocks.reshape(-1)


def write_quantized(
    path: Path, config: ModelConfig, kinds: Mapping[str, str], metadata: Mapping[str, Any], seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """A GGUF model of random blocks; returns its weights by their Hugging Face names, in that order of rows.

    `kinds`: the type of a matrix by a part of its Hugging Face name, "" for all others. Vectors are F32, as always.
    """
    writer, random, weights = gguf.GGUFWriter(path, "llama"), np.random.default_rng(seed), {}
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            add_value(writer, key, value)
    for name, values in random_weights(config).items():
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
            weights[name] = values.astype(np.float64)
            continue
        kind = next(kind for part, kind in kinds.items() if part in name)
        block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        # The plain types have no q to multiply: 32 times the scale gives values of the size of the others'.
        scales = USUAL_SCALES if kind in BLOCKS else 32 * USUAL_SCALES
        stored = random_blocks(kind, values.size // block, scales, random)
        rows = stored.reshape(values.shape[0], values.shape[1] // block * nbytes)
        writer.add_tensor(gguf_name(name), rows, raw_dtype=GGMLQuantizationType[kind])
        weights[name] = _in_order(name, dequantized(stored, kind).reshape(values.shape), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _in_order(name: str, rows: NDArray[np.float64], config: ModelConfig) -> NDArray[np.float64]:
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    return rows if heads is None else unpermute(rows, heads)


def write_as_safetensors(folder: Path, weights: Mapping[str, NDArray[np.float64]]) -> None:
    """The weights as float32, which the engine rounds to bf16 as it does with those of a GGUF model."""
    stored = {name: ("F32", values.astype(np.float32)) for name, values in weights.items()}
    write_safetensors(folder / "model.safetensors", stored)
