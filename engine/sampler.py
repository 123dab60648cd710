"""Chooses the next token of each sequence of a step from its logits, on the device.

    logits -> allowed tokens -> bias, bans, penalties -> min-p, top-k, top-p -> temperature and a draw -> token

Each stage is one kernel, and is left out of a step in which no request asks for it. A greedy step is one argmax. The
draw is keyed by the request's seed and the token's position, never by the batch around it.

The host runs ahead of the device: a step is launched before the host has read the tokens of the one before. So nothing
here waits, and nothing that a launched step will read is written again before that step has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device, Stream
from bindings.dtypes import F32, I32, U32, U64
from bindings.tensor import Tensor
from bindings.trace import label
from engine import ops
from engine.logit_edits import LogitEdits
from engine.logprobs import LogprobsReader, PendingLogprobs, TokenLogprobs
from engine.params_for_model import MAX_LOGPROBS
from engine.request import Request
from engine.step_lists import StepLists

# For the kernels, under their arguments' names: what the runner gathers for a step's sequences.
FOR_KERNELS = {"seeds": U64, "temperature": F32, "top_k": I32, "top_p": F32, "min_p": F32}
# For the host, to see at once which kernels a step needs. logprobs: -1 where none are wanted.
FOR_HOST = {"plain": "?", "truncates": "?", "edits": "?", "allows": "?", "logprobs": "i4"}
BY_ROW = {name: dtype.carrier for name, dtype in FOR_KERNELS.items()} | FOR_HOST


@dataclass(frozen=True)
class Parameters:
    """The values of `Sampler.by_row` for the S sequences of a step, on the device.

    positions: where the new token will stand, which is the length of the sequence before it.
    """

    temperature: Tensor  # f32[S]
    seeds: Tensor  # u64[S]
    positions: Tensor  # i32[S]
    top_k: Tensor  # i32[S]
    top_p: Tensor  # f32[S]
    min_p: Tensor  # f32[S]


class Sampler:
    """For steps of up to `max_seqs` sequences. `seed`: for requests that bring none; `stop_ids`: the model's own.

    `by_row` holds what is constant for a running request: an array [max_seqs] for each name of BY_ROW.
    """

    def __init__(
        self, device: Device, stream: Stream, max_seqs: int, vocab_size: int, seed: int, stop_ids: frozenset[int]
    ) -> None:
        self._device, self._stream, self._max_seqs, self._vocab_size = device, stream, max_seqs, vocab_size
        self._seed, self._stop_ids = seed, stop_ids
        self.by_row: dict[str, NDArray] = {name: np.zeros(max_seqs, dtype) for name, dtype in BY_ROW.items()}
        self._requests: list[Request | None] = [None] * max_seqs  # by row, as all of these
        self._edits: list[LogitEdits | None] = [None] * max_seqs
        self._new_masks: set[int] = set()  # rows whose mask the device has not got yet
        self._edit_lists = StepLists(device, stream, "sampler.edits")
        self._mask_lists = StepLists(device, stream, "sampler.masks")
        self._masks: Tensor | None = None  # u32[max_seqs, W], by row
        self._raw: Tensor | None = None
        self._readers: dict[str, LogprobsReader] = {}

    def assign(self, request: Request) -> None:
        """Take in a request that has got a row; whoever had it before has ended, or was preempted."""
        params, by, row = request.params, self.by_row, request.row
        by["seeds"][row] = self._seed_of(request)
        by["temperature"][row], by["top_k"][row] = params.temperature, max(params.top_k, 0)
        by["top_p"][row], by["min_p"][row] = params.top_p, params.min_p
        by["plain"][row], by["truncates"][row] = params.is_plain, params.truncates
        by["logprobs"][row] = -1 if params.logprobs is None else params.logprobs
        by["allows"][row] = params.allowed_token_ids is not None
        by["edits"][row] = params.needs_tokens or bool(params.logit_bias) or params.min_tokens > 0
        self._requests[row], self._edits[row] = request, None
        if by["edits"][row]:
            prompt_ids = request.token_ids[: request.num_prompt_tokens]
            self._edits[row] = LogitEdits(params, prompt_ids, self._stop_ids)
        if by["allows"][row]:
            self._new_masks.add(row)
        else:
            self._new_masks.discard(row)

    def _seed_of(self, request: Request) -> int:
        """The n answers to a prompt differ in the upper half, requests without a seed of their own in the lower."""
        seed = self._seed + request.answer.index if request.params.seed is None else request.params.seed
        return (seed + (request.answer.completion.index << 32)) % 2**64

    def is_plain(self, rows: NDArray[np.int32]) -> bool:
        """Whether `draw` alone does for a step of these sequences."""
        return bool(self.by_row["plain"][rows].all())

    def is_greedy(self, rows: NDArray[np.int32]) -> bool:
        """Whether each of these sequences takes its likeliest token."""
        return not self.by_row["temperature"][rows].any()

    def sample(
        self,
        token_ids: Tensor,
        logits: Tensor,
        parameters: Parameters,
        rows: NDArray[np.int32],
        positions: NDArray[np.int32],
    ) -> PendingLogprobs | None:
        """Launch what writes the next token of each sequence to token_ids i32[S]; logits f32[S, V] change on the way.

        rows, positions: of the sequences, on the host. Returns the log-probabilities, as they were before any change,
        if a request wants some. Of requests with `params.needs_tokens` all tokens before `positions` must be known.
        """
        flags = {name: self.by_row[name][rows] for name in ("allows", "edits", "truncates")}
        num_top = int(self.by_row["logprobs"][rows].max())
        changes = any(flag.any() for flag in flags.values())
        with label("sample"):
            raw = self._copy_of(logits) if num_top >= 0 and changes else logits
            if flags["allows"].any():
                self._allow(logits, rows)
            if flags["edits"].any():
                self._edit(logits, rows, positions)
            if flags["truncates"].any():
                self._truncate(logits, parameters)
            self.draw(token_ids, logits, parameters, self.is_greedy(rows))
            return self._reader("step").start(raw, token_ids, num_top) if num_top >= 0 else None

    def draw(self, token_ids: Tensor, logits: Tensor, parameters: Parameters, greedy: bool) -> None:
        """Launch the draw alone: all that a plain step needs, and nothing that could not be captured in a graph."""
        if greedy:
            ops.ARGMAX(self._stream, token_ids=token_ids, logits=logits)
            return
        ops.GUMBEL_SAMPLE(
            self._stream, token_ids=token_ids, logits=logits, temperature=parameters.temperature,
            seeds=parameters.seeds, positions=parameters.positions,
        )  # fmt: skip

    def prompt_logprobs(self, logits: Tensor, token_ids: Tensor, num_top: int) -> TokenLogprobs:
        """Log-probabilities of a piece of a prompt, at most max_seqs rows; waits for them.

        logits f32[T, V]; token_ids i32[T]: the token that follows each row.
        """
        pending = self._reader("prompt").start(logits, token_ids, num_top)
        self._stream.synchronize()
        return pending.read()

    def _reader(self, name: str) -> LogprobsReader:
        if name not in self._readers:  # memory only for who asks
            made = LogprobsReader(self._device, self._stream, self._max_seqs, MAX_LOGPROBS, f"logprobs.{name}")
            self._readers[name] = made
        return self._readers[name]

    def _copy_of(self, logits: Tensor) -> Tensor:
        """The logits before they are changed. The copy grows with the steps that want it: it is as large as they."""
        rows = logits.shape[0]
        if self._raw is None or self._raw.shape[0] < rows:
            if self._raw is not None:
                self._stream.synchronize()  # the step before may still read it
                self._raw.free()
            capacity = min(1 << (rows - 1).bit_length(), self._max_seqs)
            self._raw = self._device.empty((capacity, self._vocab_size), F32, "sampler.raw_logits")
        raw = self._raw[0:rows]
        self._device.copy_on_device(raw.address, logits.address, logits.nbytes, self._stream)
        return raw

    def _allow(self, logits: Tensor, rows: NDArray[np.int32]) -> None:
        """Leave only the allowed tokens of the requests that name some. A mask goes to the device once a request."""
        words = -(-self._vocab_size // 32)
        if self._masks is None:
            self._masks = self._device.empty((self._max_seqs, words), U32, "sampler.masks")
        new = sorted(self._new_masks.intersection(rows.tolist()))
        host = self._mask_lists.begin([("rows", I32, (len(rows),)), ("masks", U32, (len(new), words))])
        host["rows"][:] = np.where(self.by_row["allows"][rows], rows, -1)
        for mask, row in zip(host["masks"], new, strict=True):
            mask[:] = self._mask(row, words)
        lists = self._mask_lists.upload()
        for i, row in enumerate(new):
            source, target = lists["masks"][i : i + 1], self._masks[row : row + 1]
            self._device.copy_on_device(target.address, source.address, target.nbytes, self._stream)
        self._new_masks.difference_update(new)
        ops.ALLOW_LOGITS(self._stream, logits=logits, rows=lists["rows"], masks=self._masks)

    def _mask(self, row: int, words: int) -> NDArray[np.uint32]:
        request = self._requests[row]
        assert request is not None, f"row {row} was never assigned"
        allowed = np.zeros(32 * words, dtype=np.bool_)
        allowed[list(request.params.allowed_token_ids or ())] = True
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    def _edit(self, logits: Tensor, rows: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        """Apply biases, bans and penalties."""
        counts = [self._count_edits(row, position) for row, position in zip(rows, positions, strict=True)]
        size = sum(counts)
        if size == 0:
            return
        columns = [(name, F32, (size,)) for name in ("biases", "divisors", "penalties")]
        host = self._edit_lists.begin([("starts", I32, (len(rows) + 1,)), ("tokens", I32, (size,)), *columns])
        host["starts"][0] = 0
        np.cumsum(counts, out=host["starts"][1:])
        self._write_edits(host, [row for row, count in zip(rows, counts, strict=True) if count])
        lists = self._edit_lists.upload()
        ops.EDIT_LOGITS(
            self._stream, logits=logits, starts=lists["starts"], tokens=lists["tokens"], biases=lists["biases"],
            divisors=lists["divisors"], penalties=lists["penalties"],
        )  # fmt: skip

    def _count_edits(self, row: int, position: int) -> int:
        edits, request = self._edits[row], self._requests[row]
        return edits.prepare(request.token_ids, position) if edits is not None and request is not None else 0

    def _write_edits(self, host: dict[str, NDArray], rows: Sequence[int]) -> None:
        start = 0
        for row in rows:
            edits = self._edits[row]
            assert edits is not None, f"row {row} has no edits"
            start = edits.write(host, start)

    def _truncate(self, logits: Tensor, parameters: Parameters) -> None:
        ops.TRUNCATE_LOGITS(
            self._stream, logits=logits, temperature=parameters.temperature, top_k=parameters.top_k,
            top_p=parameters.top_p, min_p=parameters.min_p,
        )  # fmt: skip

    def close(self) -> None:
        """Free what is not the device's to free: pinned memory. No step may be under way."""
        self._edit_lists.close()
        self._mask_lists.close()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
