"""A model's tensors on the device, merged as the forward pass wants them: a checkpoint's, or random ones.

q, k and v projections lie one under the other in one matrix, gate and up projections in another: one large product
reads its input once and fills the device better than three small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Event
from bindings.dtypes import BF16, U8
from bindings.tensor import Tensor
from engine import ops
from engine.checkpoint import Checkpoint, expected_tensors
from engine.config import ModelConfig
from engine.progress import Progress

# Two pinned buffers of this size: one is filled by the host while the other travels to the device.
STAGING_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer; matrices are [outputs, inputs], row-major."""

    input_norm: Tensor  # [H]
    qkv: Tensor  # [(NH + 2 NKV) D, H]
    o: Tensor  # [H, NH D]
    post_attention_norm: Tensor  # [H]
    gate_up: Tensor  # [2 I, H]
    down: Tensor  # [H, I]


@dataclass(frozen=True)
class LlamaWeights:
    """All weights of a Llama model; `lm_head` is `embed` itself where the checkpoint ties them."""

    embed: Tensor  # [V, H]
    layers: list[LayerWeights]
    norm: Tensor  # [H]
    lm_head: Tensor  # [V, H]

    @property
    def nbytes(self) -> int:
        """Bytes that one decode step reads: everything but the embedding rows it does not look up."""
        layers = sum(t.nbytes for layer in self.layers for t in vars(layer).values())
        return layers + self.norm.nbytes + self.lm_head.nbytes

    def free(self) -> None:
        """Free every tensor."""
        layers = [t for layer in self.layers for t in vars(layer).values()]
        for tensor in (self.embed, *layers, self.norm, self.lm_head):
            tensor.free()


class Uploader:
    """Copies host arrays to the device through two pinned buffers: the next copy is prepared while one travels."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._staging = [device.alloc_host(STAGING_BYTES, f"weights.staging.{i}") for i in range(2)]
        self._bytes = [buffer.numpy(U8) for buffer in self._staging]
        self._copied = [Event(timing=False) for _ in self._staging]
        self._turn = 0

    def upload(self, target: Tensor, values: NDArray) -> None:
        """Start copying `values` into `target`; whole after `finish()`."""
        source = values.reshape(-1).view(np.uint8)
        for start in range(0, source.nbytes, STAGING_BYTES):
            self._upload_chunk(target.address + start, source[start : start + STAGING_BYTES])

    def _upload_chunk(self, address: int, chunk: NDArray[np.uint8]) -> None:
        turn, stream = self._turn, self._device.stream
        self._copied[turn].synchronize()
        self._bytes[turn][: chunk.nbytes] = chunk
        self._device.copy_in_async(address, self._staging[turn].address, chunk.nbytes, stream)
        stream.record(self._copied[turn])
        self._turn = 1 - turn

    def finish(self) -> None:
        """Wait for the last copies and free the pinned buffers."""
        self._device.stream.synchronize()
        for event, buffer in zip(self._copied, self._staging, strict=True):
            event.close()
            buffer.free()


class _Builder(Protocol):
    """What gives the model its tensors, by their Hugging Face names: each call makes a new one on the device."""

    def matrix(self, name: str, sources: list[str], columns: int, rows: list[int]) -> Tensor:
        """The matrices `sources` of so many rows each, one under the other, as one tensor called `name`."""

    def vector(self, source: str, size: int) -> Tensor:
        """The vector `source`."""


def _build_layer(builder: _Builder, config: ModelConfig, index: int) -> LayerWeights:
    c, prefix, name = config, f"model.layers.{index}.", f"layers.{index}."
    q_rows, kv_rows = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    qkv = [f"{prefix}self_attn.{x}_proj.weight" for x in "qkv"]
    gate_up = [f"{prefix}mlp.{x}_proj.weight" for x in ("gate", "up")]
    o, down = f"{prefix}self_attn.o_proj.weight", f"{prefix}mlp.down_proj.weight"
    return LayerWeights(
        input_norm=builder.vector(f"{prefix}input_layernorm.weight", c.hidden_size),
        qkv=builder.matrix(f"{name}attention.qkv", qkv, c.hidden_size, [q_rows, kv_rows, kv_rows]),
        o=builder.matrix(f"{name}attention.o", [o], q_rows, [c.hidden_size]),
        post_attention_norm=builder.vector(f"{prefix}post_attention_layernorm.weight", c.hidden_size),
        gate_up=builder.matrix(f"{name}mlp.gate_up", gate_up, c.hidden_size, [c.intermediate_size] * 2),
        down=builder.matrix(f"{name}mlp.down", [down], c.intermediate_size, [c.hidden_size]),
    )


def _build(builder: _Builder, config: ModelConfig) -> LlamaWeights:
    embed = builder.matrix("embed", ["model.embed_tokens.weight"], config.hidden_size, [config.vocab_size])
    layers = [_build_layer(builder, config, index) for index in range(config.num_layers)]
    norm = builder.vector("model.norm.weight", config.hidden_size)
    lm_head = embed
    if not config.tie_word_embeddings:
        lm_head = builder.matrix("lm_head", ["lm_head.weight"], config.hidden_size, [config.vocab_size])
    return LlamaWeights(embed, layers, norm, lm_head)


class _Loader:
    """Reads tensors of a checkpoint, reporting progress."""

    def __init__(self, device: Device, checkpoint: Checkpoint, progress: Progress) -> None:
        self._device, self._checkpoint, self._progress = device, checkpoint, progress
        self._uploader = Uploader(device)
        self._done, self._total = 0, len(checkpoint.tensor_names)

    def matrix(self, name: str, sources: list[str], columns: int, rows: list[int]) -> Tensor:
        merged = self._device.empty((sum(rows), columns), BF16, name)
        start = 0
        for source, count in zip(sources, rows, strict=True):
            self._copy(merged[start : start + count], source)
            start += count
        return merged

    def vector(self, source: str, size: int) -> Tensor:
        vector = self._device.empty((size,), BF16, source.removeprefix("model."))
        self._copy(vector, source)
        return vector

    def _copy(self, target: Tensor, source: str) -> None:
        self._uploader.upload(target, self._checkpoint.tensor(source))
        self._done += 1
        self._progress("load weights", self._done, self._total, "tensors")

    def finish(self) -> None:
        """Wait until everything is on the device."""
        self._uploader.finish()


def load_weights(device: Device, checkpoint: Checkpoint, progress: Progress) -> LlamaWeights:
    """Every weight of `checkpoint` as bf16 on `device`. Raises CudaError when they do not fit."""
    loader = _Loader(device, checkpoint, progress)
    try:
        return _build(loader, checkpoint.config)
    finally:
        loader.finish()


class _RandomMaker:
    """Makes tensors on the device: matrices of normal variates, each its own subsequence of the seed; vectors of ones.

    A matrix of n columns has standard deviation 1 / sqrt(n): its product with a vector is about as large as the vector,
    so activations stay near 1 from the first layer to the logits.
    """

    def __init__(self, device: Device, config: ModelConfig, seed: int, progress: Progress) -> None:
        self._device, self._seed, self._progress = device, seed, progress
        self._made, self._done, self._total = 0, 0, len(expected_tensors(config))

    def matrix(self, name: str, sources: list[str], columns: int, rows: list[int]) -> Tensor:
        merged = self._device.empty((sum(rows), columns), BF16, name)
        ops.RANDOM_NORMAL(
            self._device.stream, out=merged.view(sum(rows) * columns), std=columns**-0.5,
            seed=self._seed, subsequence=self._made,
        )  # fmt: skip
        self._made += 1
        self._count(len(sources))
        return merged

    def vector(self, source: str, size: int) -> Tensor:
        ones = self._device.upload(np.ones(size, np.float32), BF16, source.removeprefix("model."))
        self._count(1)
        return ones

    def _count(self, tensors: int) -> None:
        self._done += tensors
        self._progress("make random weights", self._done, self._total, "tensors")


def random_weights(device: Device, config: ModelConfig, seed: int, progress: Progress) -> LlamaWeights:
    """Weights of the shape of `config`, made on `device`: the same for the same seed, on any device but for rounding.

    Raises CudaError when they do not fit.
    """
    weights = _build(_RandomMaker(device, config, seed, progress), config)
    device.stream.synchronize()
    return weights
