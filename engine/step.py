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
from engine.scheduler import Batch, Piece


@dataclass(frozen=True)
class Attention:
    """What attention must know of one kind of a step's sequences: those that decode, or those that prefill."""

    seq_lens: Tensor  # i32[S]: keys to attend to, this step's included
    block_tables: Tensor  # i32[S, M]
    max_query_len: int
    max_seq_len: int
    kv_tokens: int

    @property
    def num_seqs(self) -> int:
        """Sequences of this kind."""
        return self.seq_lens.shape[0]


@dataclass(frozen=True)
class Step:
    """The device arrays of one step, cut to its T tokens and S sequences, and what the host knows of their sizes.

    The first rows are those of the sequences that decode, one each; the rows of those that prefill follow. Of these,
    sequence s has rows query_starts[s] .. query_starts[s+1], counted from the first one. `last_rows` are the rows whose
    logits are wanted.
    """

    token_ids: Tensor  # i32[T]
    positions: Tensor  # i32[T]
    slot_mapping: Tensor  # i32[T]: page * page_size + offset
    seq_lens: Tensor  # i32[S]
    block_tables: Tensor  # i32[S, M]
    query_starts: Tensor  # i32[prefills + 1]
    last_rows: Tensor  # i32[S]
    temperature: Tensor  # f32[S]
    seeds: Tensor  # u64[S]
    greedy: bool
    decode: Attention
    prefill: Attention

    @property
    def num_seqs(self) -> int:
        """Sequences of this step."""
        return self.seq_lens.shape[0]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence runs one token, so that a graph can be replayed."""
        return self.prefill.num_seqs == 0

    @property
    def num_splits(self) -> int:
        """Splits to launch for the longest sequence."""
        return split_bucket(self.decode.max_seq_len)

    @property
    def graph_key(self) -> tuple[int, int, bool]:
        """Decode steps of equal key launch the same kernels with the same arguments."""
        return self.num_seqs, self.num_splits, self.greedy


def split_bucket(seq_len: int) -> int:
    """Splits to launch for a sequence of this length, a power of two: few graphs serve all lengths."""
    return 1 << (-(-seq_len // SPLIT_TOKENS) - 1).bit_length()


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
        self._views: dict[tuple[str, int], Tensor] = {}
        offset = 0
        for name, dtype, shape in layout:
            self.host[name] = self._host.numpy(dtype, shape, offset)
            self.tensors[name] = self._buffer.tensor(dtype, shape, offset)
            offset += _aligned(dtype.itemsize * prod(shape))

    def fill(self, batch: Batch, cache: KVCache, seeds: list[int]) -> Step:
        """Write `batch` into the pinned arrays and describe the step. Its sequences hold the pages they need."""
        pieces, row = batch.pieces, 0
        self.host["query_starts"][0] = 0
        for s, piece in enumerate(pieces):
            table = cache.table(piece.request)
            self._fill_rows(row, piece, table)
            row += piece.stop - piece.start
            self._fill_sequence(s, row, piece, table.pages[: cache.pages_for(piece.stop)])
            self.host["seeds"][s] = seeds[s]
            if s >= len(batch.decodes):
                self.host["query_starts"][s - len(batch.decodes) + 1] = row - len(batch.decodes)
        return self._step(batch, row)

    def _fill_rows(self, row: int, piece: Piece, table: BlockTable) -> None:
        rows = slice(row, row + piece.stop - piece.start)
        self.host["token_ids"][rows] = piece.request.token_ids[piece.start : piece.stop]
        self.host["positions"][rows] = np.arange(piece.start, piece.stop)
        self.host["slot_mapping"][rows] = table.slots(piece.start, piece.stop)

    def _fill_sequence(self, s: int, row_end: int, piece: Piece, pages: list[int]) -> None:
        self.host["seq_lens"][s] = piece.stop
        self.host["last_rows"][s] = row_end - 1
        self.host["block_tables"][s, : len(pages)] = pages
        self.host["temperature"][s] = piece.request.params.temperature

    def _first(self, name: str, count: int) -> Tensor:
        """The first `count` rows of an array. Kept: the same few views are wanted at every step."""
        view = self._views.get((name, count))
        if view is None:
            view = self._views[name, count] = self.tensors[name][0:count]
        return view

    def _step(self, batch: Batch, rows: int) -> Step:
        decodes, seqs, first = len(batch.decodes), len(batch.pieces), self._first
        return Step(
            token_ids=first("token_ids", rows), positions=first("positions", rows),
            slot_mapping=first("slot_mapping", rows), seq_lens=first("seq_lens", seqs),
            block_tables=first("block_tables", seqs), query_starts=first("query_starts", seqs - decodes + 1),
            last_rows=first("last_rows", seqs), temperature=first("temperature", seqs), seeds=first("seeds", seqs),
            greedy=all(piece.request.params.temperature == 0 for piece in batch.pieces),
            decode=self._attention(batch.decodes, 0), prefill=self._attention(batch.prefills, decodes),
        )  # fmt: skip

    def _attention(self, pieces: list[Piece], first: int) -> Attention:
        """What attention must know of `pieces`, which are sequences `first`, first + 1, … of the step."""
        names, sequences = ("seq_lens", "block_tables"), slice(first, first + len(pieces))
        seq_lens, block_tables = (
            self.tensors[name][sequences] if first and pieces else self._first(name, len(pieces)) for name in names
        )
        return Attention(
            seq_lens=seq_lens,
            block_tables=block_tables,
            max_query_len=max((piece.stop - piece.start for piece in pieces), default=0),
            max_seq_len=max((piece.stop for piece in pieces), default=0),
            kv_tokens=sum(piece.stop for piece in pieces),
        )

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
