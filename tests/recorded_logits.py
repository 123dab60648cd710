"""The logits that an engine makes, row by row, to be compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

import pytest
from numpy.typing import NDArray

from bindings.tensor import Tensor
from engine.models.llama import Llama
from engine.step import Step

Row = tuple[int, bytes]  # how many tokens a row of logits has seen, and the hash of its bits


def rows_of(logits: NDArray, seen: Sequence[int]) -> set[Row]:
    """A row for each of logits f32[S, V]; `seen`: 0 for one that only fills up a batch."""
    return {
        (int(count), blake2b(row.tobytes(), digest_size=16).digest())
        for count, row in zip(seen, logits, strict=True)
        if count
    }


@contextmanager
def recorded_logits() -> Iterator[set[Row]]:
    """The logits of every sequence of every eager step inside the block."""
    rows: set[Row] = set()
    forward = Llama.forward

    def record(model: Llama, step: Step) -> Tensor:
        logits = forward(model, step)
        rows.update(rows_of(logits.numpy(model.stream), step.seq_lens.numpy(model.stream)))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Llama, "forward", record)
        yield rows
