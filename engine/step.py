"""What one step tells the device: which tokens, at which positions, in which pages.

All of a step's small arrays lie in one buffer, with a twin in pinned host memory: the host fills the twin, one
asynchronous copy brings it over. The device addresses never change, so a captured graph reads each step's new values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Stream
from bindings.dtypes import F32, I32, U64, DType
from bindings.tensor import Tensor
from engine.kv_cache import BlockTable, KVCache
from engine.ops import SPLIT_TOKENS
from engine.scheduler import Batch


@dataclass(frozen=True)
class Step:
    """The device arrays of one step, cut to its T tokens and S sequences, and what the host knows of their sizes.

    Sequence s has rows query_starts[s] .. query_starts[s+1] of the T; `last_rows` are the rows whose logits are wanted.
    """

    token_ids: Tensor  # i32[T]
    positions: Tensor  # i32[T]
    slot_mapping: Tensor  # i32[T]: page * page_size + offset
    seq_lens: Tensor  # i32[S]: keys to attend to, this step's included
    query_starts: Tensor  # i32[S+1]
    last_rows: Tensor  # i32[S]
    block_tables: Tensor  # i32[S, M]
    temperature: Tensor  # f32[S]
    seeds: Tensor  # u64[S]
    is_prefill: bool
    greedy: bool
    max_query_len: int
    kv_tokens: int
    num_splits: int

    @property
    def num_seqs(self) -> int:
        """Sequences of this step."""
        return self.seq_lens.shape[0]

    @property
    def graph_key(self) -> tuple[int, int, bool]:
        """Steps of equal key launch the same kernels with the same arguments."""
        return self.num_seqs, self.num_splits, self.greedy


class StepBuffers:
    """The buffer of step arrays and its pinned twin, sized for the largest step."""

    def __init__(self, device: Device, max_tokens: int, max_seqs: int, table_width: int) -> None:
        layout: list[tuple[str, DType, tuple[int, ...]]] = [
            ("seeds", U64, (max_seqs,)),
            ("temperature", F32, (max_seqs,)),
            ("seq_lens", I32, (max_seqs,)),
            ("last_rows", I32, (max_seqs,)),
            ("query_starts", I32, (max_seqs + 1,)),
            ("token_ids", I32, (max_tokens,)),
            ("positions", I32, (max_tokens,)),
            ("slot_mapping", I32, (max_tokens,)),
            ("block_tables", I32, (max_seqs, table_width)),  # last: only the rows in use are copied
        ]
        nbytes = sum(_aligned(dtype.itemsize * prod(shape)) for _, dtype, shape in layout)
        self._device = device
        self._host, self._buffer = device.alloc_host(nbytes, "step.host"), device.alloc(nbytes, "step")
        self.host: dict[str, NDArray] = {}
        self.tensors: dict[str, Tensor] = {}
        offset = 0
        for name, dtype, shape in layout:
            self.host[name] = self._host.numpy(dtype, shape, offset)
            self.tensors[name] = self._buffer.tensor(dtype, shape, offset)
            offset += _aligned(dtype.itemsize * prod(shape))

    def fill(self, batch: Batch, cache: KVCache, seeds: list[int]) -> Step:
        """Write `batch` into the pinned arrays, giving its sequences the pages they need, and describe the step."""
        row = kv_tokens = max_query_len = max_seq_len = 0
        self.host["query_starts"][0] = 0
        for s, (request, count) in enumerate(zip(batch.requests, batch.num_tokens, strict=True)):
            seq_len = request.num_computed + count
            table = cache.grow(request.index, seq_len)
            self._fill_rows(row, request.token_ids, request.num_computed, seq_len, table)
            row += count
            self._fill_sequence(s, row, seq_len, table.pages)
            self.host["temperature"][s] = request.params.temperature
            self.host["seeds"][s] = seeds[s]
            kv_tokens, max_seq_len = kv_tokens + seq_len, max(max_seq_len, seq_len)
            max_query_len = max(max_query_len, count)
        greedy = all(request.params.temperature == 0 for request in batch.requests)
        return self._step(row, len(batch.requests), batch.is_prefill, greedy, max_query_len, kv_tokens, max_seq_len)

    def _fill_rows(self, row: int, tokens: list[int], start: int, stop: int, table: BlockTable) -> None:
        """The rows of one sequence: its tokens `start:stop`."""
        rows = slice(row, row + stop - start)
        self.host["token_ids"][rows] = tokens[start:stop]
        self.host["positions"][rows] = np.arange(start, stop)
        self.host["slot_mapping"][rows] = table.slots(start, stop)

    def _fill_sequence(self, s: int, row_end: int, seq_len: int, pages: list[int]) -> None:
        self.host["seq_lens"][s] = seq_len
        self.host["query_starts"][s + 1] = row_end
        self.host["last_rows"][s] = row_end - 1
        self.host["block_tables"][s, : len(pages)] = pages

    def _step(
        self,
        rows: int,
        seqs: int,
        is_prefill: bool,
        greedy: bool,
        max_query_len: int,
        kv_tokens: int,
        max_seq_len: int,
    ) -> Step:
        t = self.tensors
        return Step(
            token_ids=t["token_ids"][0:rows], positions=t["positions"][0:rows], slot_mapping=t["slot_mapping"][0:rows],
            seq_lens=t["seq_lens"][0:seqs], query_starts=t["query_starts"][0 : seqs + 1],
            last_rows=t["last_rows"][0:seqs], block_tables=t["block_tables"][0:seqs],
            temperature=t["temperature"][0:seqs], seeds=t["seeds"][0:seqs],
            is_prefill=is_prefill, greedy=greedy, max_query_len=max_query_len, kv_tokens=kv_tokens,
            num_splits=_split_bucket(max_seq_len),
        )  # fmt: skip

    def upload(self, step: Step, stream: Stream) -> None:
        """Start the one copy that brings the arrays of `step` to the device."""
        used = step.block_tables.offset + step.block_tables.nbytes
        self._device.copy_in_async(self._buffer.address, self._host.address, used, stream)

    def free(self) -> None:
        """Free the pinned memory; the device buffer ends with its device."""
        self.host.clear()
        self._host.free()
        self._buffer.free()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 256) * 256


def _split_bucket(seq_len: int) -> int:
    """Splits to launch for the longest sequence, rounded up to a power of two, so that few graphs serve all lengths."""
    splits = -(-seq_len // SPLIT_TOKENS)
    return 1 << (splits - 1).bit_length()
