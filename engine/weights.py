"""A checkpoint's tensors on the device, merged as the forward pass wants them.

q, k and v projections lie one under the other in one matrix, gate and up projections in another: one large product
reads its input once and fills the device better than three small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Event
from bindings.dtypes import BF16, U8
from bindings.tensor import Tensor
from engine.checkpoint import Checkpoint
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


class _Loader:
    """Reads tensors by their Hugging Face names into new device tensors, reporting progress."""

    def __init__(self, device: Device, checkpoint: Checkpoint, progress: Progress) -> None:
        self._device, self._checkpoint, self._progress = device, checkpoint, progress
        self._uploader = Uploader(device)
        self._done, self._total = 0, len(checkpoint.tensor_names)

    def matrix(self, name: str, sources: list[str], columns: int, rows: list[int]) -> Tensor:
        """The matrices `sources`, one under the other, as one tensor called `name`."""
        merged = self._device.empty((sum(rows), columns), BF16, name)
        start = 0
        for source, count in zip(sources, rows, strict=True):
            self._copy(merged[start : start + count], source)
            start += count
        return merged

    def vector(self, source: str, size: int) -> Tensor:
        """The vector `source`."""
        vector = self._device.empty((size,), BF16, source.removeprefix("model."))
        self._copy(vector, source)
        return vector

    def _copy(self, target: Tensor, source: str) -> None:
        self._uploader.upload(target, self._checkpoint.tensor(source))
        self._done += 1
        self._progress("load weights", self._done, self._total, "tensors")

    def layer(self, config: ModelConfig, index: int) -> LayerWeights:
        """Decoder layer `index`."""
        c, prefix, name = config, f"model.layers.{index}.", f"layers.{index}."
        q_rows, kv_rows = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        qkv = [f"{prefix}self_attn.{x}_proj.weight" for x in "qkv"]
        gate_up = [f"{prefix}mlp.{x}_proj.weight" for x in ("gate", "up")]
        o, down = f"{prefix}self_attn.o_proj.weight", f"{prefix}mlp.down_proj.weight"
        return LayerWeights(
            input_norm=self.vector(f"{prefix}input_layernorm.weight", c.hidden_size),
            qkv=self.matrix(f"{name}attention.qkv", qkv, c.hidden_size, [q_rows, kv_rows, kv_rows]),
            o=self.matrix(f"{name}attention.o", [o], q_rows, [c.hidden_size]),
            post_attention_norm=self.vector(f"{prefix}post_attention_layernorm.weight", c.hidden_size),
            gate_up=self.matrix(f"{name}mlp.gate_up", gate_up, c.hidden_size, [c.intermediate_size] * 2),
            down=self.matrix(f"{name}mlp.down", [down], c.intermediate_size, [c.hidden_size]),
        )

    def finish(self) -> None:
        """Wait until everything is on the device."""
        self._uploader.finish()


def load_weights(device: Device, checkpoint: Checkpoint, progress: Progress) -> LlamaWeights:
    """Every weight of `checkpoint` as bf16 on `device`. Raises CudaError when they do not fit."""
    config, loader = checkpoint.config, _Loader(device, checkpoint, progress)
    try:
        embed = loader.matrix("embed", ["model.embed_tokens.weight"], config.hidden_size, [config.vocab_size])
        layers = [loader.layer(config, index) for index in range(config.num_layers)]
        norm = loader.vector("model.norm.weight", config.hidden_size)
        lm_head = embed
        if not config.tie_word_embeddings:
            lm_head = loader.matrix("lm_head", ["lm_head.weight"], config.hidden_size, [config.vocab_size])
        return LlamaWeights(embed, layers, norm, lm_head)
    finally:
        loader.finish()
