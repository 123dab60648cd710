"""What one step tells the device: which tokens, at which positions, in which pages.

All of a step's small arrays lie in one buffer, with twins in pinned host memory (staging.py): the host fills one, one
asynchronous copy brings it over. At 256 sequences a loop over them in Python is what costs, so whatever is the same
for each decoding sequence is worked out for all of them at once, in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Stream
from bindings.dtypes import I32
from bindings.tensor import Tensor
from engine.kv_cache import KVCache
from engine.ops import SPLIT_TOKENS
from engine.request import Request
from engine.sampler import FOR_KERNELS, Parameters
from engine.scheduler import Batch, Piece
from engine.staging import TWINS, Layout, Staging

NO_SLOT = -1  # of a row that fills up a graph's batch: nothing is written


@dataclass(frozen=True)
class Attention:
    """What attention must know of one kind of a step's sequences: those that decode, or those that prefill."""

    seq_lens: Tensor  # i32[S]: keys to attend to, this step's included
    block_tables: Tensor  # i32[S, M]
    max_query_len: int
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

    token_ids: Tensor  # i32[T]; -1 - r: the token that the step before chose in its row r
    positions: Tensor  # i32[T]
    slot_mapping: Tensor  # i32[T]: page * page_size + offset
    seq_lens: Tensor  # i32[S]
    query_starts: Tensor  # i32[prefills + 1]
    last_rows: Tensor  # i32[S]
    parameters: Parameters
    rows: NDArray[np.int32]  # on the host: `request.row` of each sequence, without those that only fill it up
    next_positions: NDArray[np.int32]  # on the host: where the token that each of them chooses will stand
    feeds: bool  # whether tokens may lie on the device only; always so where a graph may be made of the step
    num_splits: int  # splits of a sequence to launch in decode attention
    decode: Attention
    prefill: Attention

    @property
    def num_seqs(self) -> int:
        """Sequences of this step, those that only fill it up included."""
        return self.seq_lens.shape[0]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence runs one token, so that a graph can be replayed."""
        return self.prefill.num_seqs == 0


def split_bucket(seq_len: int) -> int:
    """Splits to launch for a sequence of this length, a power of two: few graphs serve all lengths."""
    return 1 << (-(-seq_len // SPLIT_TOKENS) - 1).bit_length()


class StepBuffers:
    """The step arrays, sized for the largest step."""

    def __init__(self, device: Device, max_tokens: int, max_seqs: int, max_len: int, page_size: int) -> None:
        self._page_size = page_size
        width = self._table_width(split_bucket(max_len))
        layout: Layout = [
            *((name, dtype, (max_seqs,)) for name, dtype in FOR_KERNELS.items()),
            ("seq_lens", I32, (max_seqs,)),
            ("last_rows", I32, (max_seqs,)),
            ("query_starts", I32, (max_seqs + 1,)),
            ("token_ids", I32, (max_tokens,)),
            ("positions", I32, (max_tokens,)),
            ("slot_mapping", I32, (max_tokens,)),
            ("block_tables", I32, (max_seqs * width,)),  # last: only what is in use is copied
        ]
        self._staging = Staging(device, "step", layout)
        self._views: dict[tuple[str, int], Tensor] = {}
        self._parameters: dict[int, Parameters] = {}
        self._tables: dict[tuple[int, int], Tensor] = {}
        self._numbers = np.arange(max_seqs, dtype=np.int32)
        self._unread = -1 - self._numbers  # the token of each row of the step before
        self._requests: list[Request] = []  # of the step before, and their rows
        self._rows = np.empty(0, np.int32)
        self._all_chose = False  # whether each of them was at its last token, and so chose one
        self._parameters_of: list[NDArray[np.int32] | None] = [None] * TWINS  # rows whose parameters each twin holds

    def _table_width(self, num_splits: int) -> int:
        """Pages of the longest sequence that this many splits serve: a graph has its table's width fixed, too."""
        return num_splits * SPLIT_TOKENS // self._page_size

    def fill(self, batch: Batch, cache: KVCache, by_row: Mapping[str, NDArray], num_decodes: int) -> Step:
        """Write `batch` into pinned memory and describe the step. Its sequences hold the pages they need.

        by_row: the sampler's parameters. num_decodes: decoding sequences that the step shall have; those beyond the
        batch's are empty.
        """
        self._staging.turn()
        positions = np.array(batch.positions, np.int32)
        self._fill_decoded_tokens(batch)
        rows = self._take_rows(batch)
        longest = max(batch.positions, default=0) + 1, *(piece.stop for piece in batch.prefills)
        splits, seqs = split_bucket(max(longest)), num_decodes + len(batch.prefills)
        tables = self._staging.host["block_tables"][: seqs * self._table_width(splits)].reshape(seqs, -1)
        self._fill_decodes(positions, num_decodes, cache.block_tables, rows, tables)
        self._fill_prefills(batch.prefills, num_decodes, cache, tables[num_decodes:])
        self._fill_parameters(rows, by_row)
        return self._step(batch, rows, num_decodes, splits)

    def _fill_parameters(self, rows: NDArray[np.int32], by_row: Mapping[str, NDArray]) -> None:
        """The sampler's parameters, unless they lie in this twin from its last turn."""
        if self._parameters_of[self._staging.twin] is not rows:
            self._parameters_of[self._staging.twin] = rows
            for name in FOR_KERNELS:
                self._staging.host[name][: len(rows)] = by_row[name][rows]

    def _fill_decoded_tokens(self, batch: Batch) -> None:
        """The tokens that sequences decode, or where the step before has put them. Before `_take_rows`."""
        decodes, positions, tokens = batch.decodes, batch.positions, self._staging.host["token_ids"]
        count = len(decodes)
        if self._all_chose and decodes == self._requests and len(decodes[0].token_ids) <= positions[0]:
            tokens[:count] = self._unread[:count]  # all of the step before, and none of it has been read
        else:
            tokens[:count] = list(map(_input_token, decodes, positions))
        self._all_chose = bool(decodes) and not batch.prefills

    def _take_rows(self, batch: Batch) -> NDArray[np.int32]:
        """`request.row` of each; mostly they are those of the step before. Notes where in the step they are."""
        requests = batch.requests
        if batch.joined or requests != self._requests:  # whoever was preempted and joins again has another row
            self._requests, self._rows = requests, np.array([request.row for request in requests], np.int32)
            for row, request in enumerate(requests):
                request.step_row = row
        return self._rows

    def _fill_decodes(
        self, positions: NDArray[np.int32], padded: int,
        block_tables: NDArray[np.int32], rows: NDArray[np.int32], tables: NDArray[np.int32],
    ) -> None:  # fmt: skip
        host, count, size = self._staging.host, len(positions), self._page_size
        used = min(tables.shape[1], block_tables.shape[1])
        tables[:count, :used] = block_tables[rows[:count], :used]
        pages = tables[self._numbers[:count], positions // size]
        host["positions"][:count] = positions
        host["seq_lens"][:count] = positions + 1
        host["slot_mapping"][:count] = pages * size + positions % size
        if count < padded:
            for name, value in (("token_ids", 0), ("positions", 0), ("seq_lens", 0), ("slot_mapping", NO_SLOT)):
                host[name][count:padded] = value

    def _fill_prefills(self, pieces: list[Piece], first: int, cache: KVCache, tables: NDArray[np.int32]) -> None:
        """Sequences `first`, first + 1, … of the step, whose tokens begin at its row `first`."""
        host, row = self._staging.host, first
        host["query_starts"][0] = 0
        host["last_rows"][:first] = self._numbers[:first]  # a decoding sequence has one row
        for s, (piece, table) in enumerate(zip(pieces, tables, strict=True)):
            request, start, stop, _ = piece
            tokens = slice(row, row + stop - start)
            host["token_ids"][tokens] = request.token_ids[start:stop]
            host["positions"][tokens] = np.arange(start, stop)
            host["slot_mapping"][tokens] = cache.slots(request, start, stop)
            row = tokens.stop
            host["seq_lens"][first + s], host["last_rows"][first + s] = stop, row - 1
            host["query_starts"][s + 1] = row - first
            pages = cache.pages_for(stop)
            table[:pages] = cache.block_tables[request.row, :pages]

    def _first(self, name: str, count: int) -> Tensor:
        """The first rows of an array. Kept: the same few views are wanted at every step."""
        view = self._views.get((name, count))
        if view is None:
            view = self._views[name, count] = self._staging.tensors[name][0:count]
        return view

    def _step(self, batch: Batch, rows: NDArray[np.int32], num_decodes: int, splits: int) -> Step:
        prefills, first = len(batch.prefills), self._first
        seqs = num_decodes + prefills
        lengths = [piece.stop - piece.start for piece in batch.prefills]
        tokens, longest = num_decodes + sum(lengths), max(lengths, default=0)
        return Step(
            token_ids=first("token_ids", tokens), positions=first("positions", tokens),
            slot_mapping=first("slot_mapping", tokens), seq_lens=first("seq_lens", seqs),
            query_starts=first("query_starts", prefills + 1), last_rows=first("last_rows", seqs),
            parameters=self.parameters(seqs), rows=rows, num_splits=splits,
            next_positions=self._staging.host["seq_lens"][: len(rows)],
            feeds=prefills == 0 or bool((self._staging.host["token_ids"][:num_decodes] < 0).any()),
            decode=self._attention(0, num_decodes, splits, 1, sum(batch.positions) + len(batch.positions)),
            prefill=self._attention(num_decodes, prefills, splits, longest, sum(p.stop for p in batch.prefills)),
        )  # fmt: skip

    def parameters(self, count: int) -> Parameters:
        """The sampler's parameters of the first `count` sequences."""
        found = self._parameters.get(count)
        if found is None:
            views = {name: self._first(name, count) for name in FOR_KERNELS}
            found = self._parameters[count] = Parameters(positions=self._first("seq_lens", count), **views)
        return found

    def _attention(self, start: int, count: int, splits: int, query_len: int, kv_tokens: int) -> Attention:
        """What attention must know of the step's sequences `start`, start + 1, …"""
        width, arrays = self._table_width(splits), self._staging.tensors
        if start:
            tables = arrays["block_tables"][start * width : (start + count) * width].view(count, width)
            return Attention(arrays["seq_lens"][start : start + count], tables, query_len, kv_tokens)
        kept = self._tables.get((count, width))
        if kept is None:
            kept = self._tables[count, width] = self._first("block_tables", count * width).view(count, width)
        return Attention(self._first("seq_lens", count), kept, query_len, kv_tokens)

    def upload(self, step: Step, stream: Stream) -> None:
        """Start the one copy that brings the arrays of `step` to the device."""
        last = step.prefill.block_tables if step.prefill.num_seqs else step.decode.block_tables
        self._staging.upload(stream, last.offset + last.nbytes)

    def free(self) -> None:
        """Free the pinned memory and the buffer."""
        self._staging.free()


def _input_token(request: Request, position: int) -> int:
    """The token that a sequence decodes, or where the step before has put it."""
    tokens = request.token_ids
    return tokens[position] if position < len(tokens) else -1 - request.step_row
