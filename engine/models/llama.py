"""The Llama decoder, top to bottom (Touvron et al. 2023; grouped-query attention as in Llama 2 70B and Llama 3).

Serves Llama 2, 3, 3.1 and 3.2, TinyLlama, SmolLM2, and Mistral without a sliding window. Every line of `forward` and
below is one kernel or one matrix product on the stream. T tokens of S sequences run at once; nothing here waits.

Rounding: activations and the residual stream are bf16, every sum inside a kernel or a product is float32, logits are
float32.

Deterministic mode: a token's logits depend, to the last bit, on the tokens before it alone, however they were batched,
cut into chunks or found in the cache. Every matrix product has the same number of rows, and all tokens attend through
one kernel; the other kernels work row by row anyway. docs/deterministic.md: why, and what it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from bindings.cublas import WORKSPACE_BYTES, Blas, invariant_rows
from bindings.device import Device, Stream
from bindings.dtypes import BF16, F32, I32, DType
from bindings.tensor import Tensor
from bindings.trace import label
from engine import ops
from engine.config import ModelConfig
from engine.rope import rope_table
from engine.spec import Op
from engine.step import Attention, Step, split_bucket
from engine.weights import LayerWeights, LlamaWeights

Shapes = dict[str, tuple[DType, tuple[int, ...]]]


@dataclass(frozen=True)
class Activations:
    """Scratch tensors between operations, sized for the largest step and used by every layer in turn."""

    residual: Tensor
    normed: Tensor
    qkv: Tensor
    attended: Tensor
    gate_up: Tensor
    gated: Tensor
    update: Tensor
    last: Tensor
    logits: Tensor
    chosen: Tensor
    partial_out: Tensor
    partial_lse: Tensor

    @staticmethod
    def shapes(config: ModelConfig, max_tokens: int, max_seqs: int, max_len: int, block_rows: int = 1) -> Shapes:
        """Dtype and shape of each, for steps of up to these sizes; the rows are whole blocks, see Blas.linear."""
        c = config
        t, s = (-(-rows // block_rows) * block_rows for rows in (max_tokens, max_seqs))
        splits = max_seqs * c.num_heads * split_bucket(max_len)
        return {
            "residual": (BF16, (t, c.hidden_size)),
            "normed": (BF16, (t, c.hidden_size)),
            "qkv": (BF16, (t, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)),
            "attended": (BF16, (t, c.num_heads * c.head_dim)),
            "gate_up": (BF16, (t, 2 * c.intermediate_size)),
            "gated": (BF16, (t, c.intermediate_size)),
            "update": (BF16, (t, c.hidden_size)),
            "last": (BF16, (s, c.hidden_size)),
            "logits": (F32, (s, c.vocab_size)),
            "chosen": (I32, (max_seqs,)),
            "partial_out": (F32, (splits * c.head_dim,)),
            "partial_lse": (F32, (splits,)),
        }

    @classmethod
    def allocate(cls, device: Device, shapes: Shapes) -> Activations:
        """All of them, in device memory."""
        return cls(
            **{name: device.empty(shape, dtype, f"activations.{name}") for name, (dtype, shape) in shapes.items()}
        )

    def clear_inputs(self, stream: Stream) -> None:
        """Zero what products read: where they take whole blocks of rows, they read rows that nobody has written."""
        for tensor in (self.normed, self.attended, self.gated, self.last):
            tensor.buffer.fill(0, stream)


class Llama:
    """The weights, the KV pages and the order of operations.

    `kv_pages` is bf16[2 L, P, NKV, B, D]: the keys of layer 0, its values, the keys of layer 1, …
    `single_queries` i32[max_seqs + 1] is 0, 1, 2, …: the query_starts of sequences that run one token each, for
    deterministic mode, where these attend as prompts do. None: they have a kernel of their own.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LlamaWeights,
        kv_pages: Tensor,
        scratch: Activations,
        cos_sin: Tensor,
        blas: Blas,
        single_queries: Tensor | None = None,
    ) -> None:
        self.config, self.weights, self.scratch, self.kv_pages = config, weights, scratch, kv_pages
        self.cos_sin, self.blas, self.stream = cos_sin, blas, blas.stream
        self.single_queries = single_queries
        pages = [kv_pages[i : i + 1].view(*kv_pages.shape[1:]) for i in range(kv_pages.shape[0])]
        self.k_cache, self.v_cache = pages[0::2], pages[1::2]

    def copy_pages(self, sources: Tensor, targets: Tensor, tokens: Tensor) -> None:
        """Copy-on-write: the first `tokens` i32[N] tokens of the KV pages `sources` to `targets`, in all layers."""
        ops.COPY_PAGES(self.stream, kv_pages=self.kv_pages, sources=sources, targets=targets, tokens=tokens)

    def forward(self, step: Step) -> Tensor:
        """The logits f32[S, V] of the last token of each sequence of this step."""
        hidden = self.hidden_states(step)
        with label("lm head"):
            return self.lm_head(self._last_rows(hidden, step))

    def hidden_states(self, step: Step) -> Tensor:
        """The normalised hidden states bf16[T, H] after the last layer; keys and values go to their pages."""
        tokens = step.token_ids.shape[0]
        residual, update = self.scratch.residual[0:tokens], None
        with label("embedding"):
            if step.feeds:
                ops.FEED_TOKENS(self.stream, token_ids=step.token_ids, chosen=self.scratch.chosen)
            ops.EMBEDDING(self.stream, out=residual, token_ids=step.token_ids, table=self.weights.embed)
        for index, layer in enumerate(self.weights.layers):
            with label(f"layer {index}"):
                with label("attention"):
                    normed = self._norm(residual, update, layer.input_norm)
                    update = self._attention(index, layer, normed, step)
                with label("mlp"):
                    normed = self._norm(residual, update, layer.post_attention_norm)
                    update = self._mlp(layer, normed)
        with label("final norm"):
            return self._norm(residual, update, self.weights.norm)

    def lm_head(self, rows: Tensor) -> Tensor:
        """Logits f32[S, V] of S normalised hidden rows."""
        logits = self.scratch.logits[0 : rows.shape[0]]
        self.blas.linear(logits, rows, self.weights.lm_head)
        return logits

    def _norm(self, residual: Tensor, update: Tensor | None, weight: Tensor) -> Tensor:
        """RMSNorm of the residual stream, after adding the last sublayer's update to it (none before the first)."""
        out, eps = self.scratch.normed[0 : residual.shape[0]], self.config.rms_norm_eps
        if update is None:
            ops.RMSNORM(self.stream, out=out, x=residual, weight=weight, eps=eps)
        else:
            ops.ADD_RMSNORM(self.stream, out=out, residual=residual, x=update, weight=weight, eps=eps)
        return out

    def _attention(self, index: int, layer: LayerWeights, normed: Tensor, step: Step) -> Tensor:
        """Queries, keys and values; rotary positions; softmax(q k^T / sqrt(D)) v over the pages; output projection."""
        c, tokens = self.config, normed.shape[0]
        qkv, update = self.scratch.qkv[0:tokens], self.scratch.update[0:tokens]
        attended = self.scratch.attended[0:tokens]
        self.blas.linear(qkv, normed, layer.qkv)
        heads = qkv.view(tokens, c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        ops.ROPE_KV_WRITE(
            self.stream, qkv=heads, k_cache=self.k_cache[index], v_cache=self.v_cache[index],
            positions=step.positions, slot_mapping=step.slot_mapping, cos_sin=self.cos_sin, NH=c.num_heads,
        )  # fmt: skip
        self._attend(index, attended.view(tokens, c.num_heads, c.head_dim), heads, step)
        self.blas.linear(update, attended, layer.o)
        return update

    def _attend(self, index: int, out: Tensor, qkv: Tensor, step: Step) -> None:
        """Each kind of sequence through its own kernel, whatever else is in the batch: decodes come first."""
        decodes, tokens = step.decode.num_seqs, qkv.shape[0]
        if decodes and self.single_queries is not None:
            starts = self.single_queries[0 : decodes + 1]
            self._attend_prefill(index, out[0:decodes], qkv[0:decodes], step.decode, starts)
        elif decodes:
            self._attend_decode(index, out[0:decodes], qkv[0:decodes], step)
        if not step.is_decode:
            rows = slice(decodes, tokens)
            self._attend_prefill(index, out[rows], qkv[rows], step.prefill, step.query_starts)

    def _attend_prefill(self, index: int, out: Tensor, qkv: Tensor, sequences: Attention, query_starts: Tensor) -> None:
        """Many new tokens a sequence: tiles of queries against tiles of keys, on tensor cores.

        A query meets its keys from position 0 on in tiles of one size, and a tile behind it changes no bit of its
        result: so that does not depend on which queries it shares a tile, a chunk or a batch with.
        """
        ops.PREFILL_ATTENTION(
            self.stream, out=out, qkv=qkv, k_cache=self.k_cache[index], v_cache=self.v_cache[index],
            block_tables=sequences.block_tables, seq_lens=sequences.seq_lens, query_starts=query_starts,
            scale=1 / sqrt(self.config.head_dim), MAXQ=sequences.max_query_len, KV=sequences.kv_tokens,
        )  # fmt: skip

    def _attend_decode(self, index: int, out: Tensor, qkv: Tensor, step: Step) -> None:
        """One new token a sequence: each split of its pages on its own, then the splits merged."""
        c, seqs, splits = self.config, step.decode.num_seqs, step.num_splits
        lse = self._partial(self.scratch.partial_lse, seqs, c.num_heads, splits)
        partial = self._partial(self.scratch.partial_out, seqs, c.num_heads, splits, c.head_dim)
        ops.DECODE_ATTENTION(
            self.stream, partial_out=partial, partial_lse=lse, qkv=qkv,
            k_cache=self.k_cache[index], v_cache=self.v_cache[index], block_tables=step.decode.block_tables,
            seq_lens=step.decode.seq_lens, scale=1 / sqrt(c.head_dim), KV=step.decode.kv_tokens,
        )  # fmt: skip
        ops.COMBINE_SPLITS(
            self.stream, out=out, partial_out=partial, partial_lse=lse, seq_lens=step.decode.seq_lens,
            NKV=c.num_kv_heads, B=self.k_cache[index].shape[2],
        )  # fmt: skip

    @staticmethod
    def _partial(scratch: Tensor, *shape: int) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        return scratch[0:count].view(*shape)

    def _mlp(self, layer: LayerWeights, normed: Tensor) -> Tensor:
        """down(silu(gate(x)) * up(x))."""
        tokens = normed.shape[0]
        gate_up, gated = self.scratch.gate_up[0:tokens], self.scratch.gated[0:tokens]
        update = self.scratch.update[0:tokens]
        self.blas.linear(gate_up, normed, layer.gate_up)
        ops.SILU_MUL(self.stream, out=gated, gate_up=gate_up)
        self.blas.linear(update, gated, layer.down)
        return update

    def _last_rows(self, hidden: Tensor, step: Step) -> Tensor:
        """The last row of each sequence. Gathering rows is what the embedding kernel does, so it does this too."""
        if step.is_decode:
            return hidden
        last = self.scratch.last[0 : step.num_seqs]
        ops.EMBEDDING(self.stream, out=last, token_ids=step.last_rows, table=hidden)
        return last


def build(
    device: Device, stream: Stream, config: ModelConfig, weights: LlamaWeights,
    kv_pages: Tensor, max_tokens: int, max_seqs: int, max_len: int, deterministic: bool = False,
) -> Llama:  # fmt: skip
    """A Llama with its scratch memory and rope table, for steps of up to these sizes."""
    block = invariant_rows() if deterministic else 1
    scratch = Activations.allocate(device, Activations.shapes(config, max_tokens, max_seqs, max_len, block))
    if block > 1:
        scratch.clear_inputs(stream)
    cos_sin = device.upload(rope_table(config, max_len), F32, "rope.cos_sin")
    starts = device.upload(np.arange(max_seqs + 1), I32, "single_queries") if deterministic else None
    return Llama(config, weights, kv_pages, scratch, cos_sin, Blas(device, stream, block), starts)


def activation_bytes(
    config: ModelConfig, max_tokens: int, max_seqs: int, max_len: int, deterministic: bool = False
) -> int:
    """Device memory that a Llama takes beside weights and KV pages."""
    block = invariant_rows() if deterministic else 1
    shapes = Activations.shapes(config, max_tokens, max_seqs, max_len, block).values()
    rope = max_len * config.head_dim * F32.itemsize
    return WORKSPACE_BYTES + rope + sum(dtype.itemsize * prod(shape) for dtype, shape in shapes)


def kernels_of(config: ModelConfig, page_size: int) -> list[tuple[Op, dict[str, int]]]:
    """Every operation with the symbols that specialise it for this model: what to compile before the first step."""
    symbols = {
        "H": config.hidden_size,
        "D": config.head_dim,
        "NH": config.num_heads,
        "NKV": config.num_kv_heads,
        "B": page_size,
    }
    return [(op, symbols) for op in ops.ALL.values() if op is not ops.RANDOM_NORMAL]
