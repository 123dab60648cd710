"""Log-probabilities of a step on their way to the host, and in the form in which a user gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindings.device import Buffer, Device, HostBuffer, Stream
from bindings.dtypes import F32, I32, DType
from bindings.tensor import Tensor
from engine import ops
from engine.outputs import Logprob


@dataclass(frozen=True)
class TokenLogprobs:
    """Of S rows: the log-probability f32[S] and rank i32[S] of one token, and the N likeliest tokens [S, N]."""

    chosen: NDArray[np.float32]
    ranks: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    def entries(self, row: int, token: int, num_top: int, token_text: Callable[[int], str]) -> dict[int, Logprob]:
        """Row `row` by token id: `token`, which the row is of, first, then the `num_top` likeliest, as in vLLM."""
        found = {token: Logprob(float(self.chosen[row]), int(self.ranks[row]), token_text(token))}
        for i in range(min(num_top, self.top_ids.shape[1])):
            other = int(self.top_ids[row, i])
            if other not in found:
                found[other] = Logprob(float(self.top_logprobs[row, i]), i + 1, token_text(other))
        return found


def _nbytes(rows: int, num_top: int) -> int:
    return 4 * 2 * rows * (1 + num_top)


def _layout(rows: int, num_top: int) -> dict[str, tuple[DType, tuple[int, ...], int]]:
    """Where each output lies: dtype, shape, and byte offset behind the one before it."""
    one, all_top = 4 * rows, 4 * rows * num_top
    return {
        "chosen": (F32, (rows,), 0),
        "ranks": (I32, (rows,), one),
        "top_ids": (I32, (rows, num_top), 2 * one),
        "top_logprobs": (F32, (rows, num_top), 2 * one + all_top),
    }


class PendingLogprobs:
    """Log-probabilities that a step will have brought to the host. Two may be outstanding."""

    def __init__(self, host: HostBuffer, rows: int, num_top: int) -> None:
        self._host, self._rows, self._num_top = host, rows, num_top

    def read(self) -> TokenLogprobs:
        """Copies of the arrays; only once the step has ended."""
        arrays = _layout(self._rows, self._num_top)
        return TokenLogprobs(**{name: self._host.numpy(*where).copy() for name, where in arrays.items()})


class LogprobsReader:
    """Runs the kernel on up to `max_rows` rows and starts the copy of what it found: one buffer, two host twins."""

    def __init__(self, device: Device, stream: Stream, max_rows: int, max_top: int, name: str) -> None:
        nbytes = _nbytes(max_rows, max_top)
        self._device, self._stream, self._max_top = device, stream, max_top
        self._buffer: Buffer = device.alloc(nbytes, name)
        self._twins = [device.alloc_host(nbytes, f"{name}.host{i}") for i in range(2)]

    def start(self, logits: Tensor, token_ids: Tensor, num_top: int) -> PendingLogprobs:
        """Of logits f32[S, V] the log-probability of token_ids i32[S] and of the likeliest. Waits for nothing."""
        rows, vocab = logits.shape
        num_top = max(1, min(num_top, self._max_top, vocab))
        outputs = {name: self._buffer.tensor(*where) for name, where in _layout(rows, num_top).items()}
        ops.LOGPROBS(
            self._stream, logits=logits, token_ids=token_ids, chosen=outputs["chosen"], ranks=outputs["ranks"],
            top_ids=outputs["top_ids"], top_logprobs=outputs["top_logprobs"],
        )  # fmt: skip
        self._twins.reverse()
        host = self._twins[0]
        self._device.copy_out_async(host.address, self._buffer.address, _nbytes(rows, num_top), self._stream)
        return PendingLogprobs(host, rows, num_top)

    def close(self) -> None:
        """Free the memory; nothing may be outstanding."""
        for twin in self._twins:
            twin.free()
        self._buffer.free()
