"""How long each step kept the device busy, and how long the device waited for the host before it.

Two events stand in the stream around a step's work. The device stamps them when it gets there, so the time from the end
of one step to the start of the next is time in which it had nothing to do. Where the host is a step ahead, the next
step's work is in the stream already, and that time is next to nothing. Inside an eager step, gaps between kernels count
as busy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bindings.device import Event, Stream


@dataclass(frozen=True)
class StepTime:
    """One step. `idle`: seconds without work before it (0 for the first), `busy`: seconds from its start to its end.

    num_decodes: sequences that ran one token; num_prefill_tokens: tokens of the others; kv_tokens: keys that the step's
    sequences attended to, each position of each sequence once.
    """

    idle: float
    busy: float
    num_decodes: int
    num_prefill_tokens: int
    kv_tokens: int

    @property
    def is_decode(self) -> bool:
        """Whether every sequence ran one token."""
        return self.num_prefill_tokens == 0


class StepTimes:
    """Records steps; a `with` frees its events. `host_seconds`: time that scheduling and batch building took in all."""

    def __init__(self) -> None:
        self._marks: list[tuple[Event, Event]] = []
        self._sizes: list[tuple[int, int, int]] = []
        self.host_seconds = 0.0

    @contextmanager
    def step(self, stream: Stream, num_decodes: int, num_prefill_tokens: int, kv_tokens: int) -> Iterator[None]:
        """What is given to `stream` inside the block is the work of one step, from its first copy to its last."""
        start, end = Event(), Event()
        self._marks.append((start, end))
        self._sizes.append((num_decodes, num_prefill_tokens, kv_tokens))
        stream.record(start)
        yield
        stream.record(end)

    @contextmanager
    def host_work(self) -> Iterator[None]:
        """What the host does inside the block is scheduling or batch building."""
        start = time.perf_counter()
        yield
        self.host_seconds += time.perf_counter() - start

    def read(self) -> list[StepTime]:
        """Wait for the last step, and give all of them in order."""
        if self._marks:
            self._marks[-1][1].synchronize()
        steps, before = [], None
        for (start, end), sizes in zip(self._marks, self._sizes, strict=True):
            idle = 0.0 if before is None else start.milliseconds_since(before) / 1e3
            steps.append(StepTime(idle, end.milliseconds_since(start) / 1e3, *sizes))
            before = end
        return steps

    def close(self) -> None:
        """Destroy the events."""
        for start, end in self._marks:
            start.close()
            end.close()
        self._marks.clear()
        self._sizes.clear()

    def __enter__(self) -> StepTimes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def idle_share(steps: Sequence[StepTime]) -> float:
    """Share of the time of these steps, what came before each included, in which the device had nothing to do."""
    idle, busy = sum(step.idle for step in steps), sum(step.busy for step in steps)
    return idle / (idle + busy) if idle + busy > 0 else 0.0
