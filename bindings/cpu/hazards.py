"""Finds two operations that touch the same bytes, one of them writing, in streams of which neither waits for the other.

Lamport's happens-before, with one clock a stream (a vector clock): an operation carries, for each stream, how many of
that stream's operations are sure to come before it, by stream order, by events, or because the host waited. What
another stream touched later than that may happen at the same time. So a missing wait is found whatever order the
operations happen to run in. Only memory that is known byte for byte takes part: copies, fills and products, alone or
in a graph. A kernel's pointers have no sizes: a wait that only kernels need is found by the order of lazy streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bindings.cpu.buffer_names import describe
from bindings.cpu.context import fault, on_context_end
from bindings.cpu.executor import Report
from bindings.cpu.operations import Operation, Span
from bindings.cpu.pending import Clock, Task

# Accesses remembered of each stream, for a program that never waits for it.
REMEMBERED = 1024


@dataclass(frozen=True)
class Access:
    """What the operation `name`, the `number`-th of its stream, touches."""

    name: str
    site: str
    number: int
    spans: Sequence[Span]


class Hazards:
    """The clocks of the streams and of the host, and what each stream touched since the host last waited for it."""

    def __init__(self) -> None:
        self._host: Clock = {}
        self._given: Clock = {}
        self._accesses: dict[object, deque[Access]] = {}

    def tick(self, lane: object, after: Iterable[Task]) -> Clock:
        """The clock of a new operation of the stream `lane` that comes behind the tasks `after`."""
        clock = dict(self._host)
        for task in after:
            _merge(clock, task.clock)
        self._given[lane] = clock[lane] = self._given.get(lane, 0) + 1
        return clock

    def record(self, lane: object, operation: Operation, clock: Clock, site: str) -> None:
        """Remember what an operation touches. Kills the context if another stream may touch it at the same time."""
        access = Access(operation.name, site, clock[lane], operation.spans())
        if not access.spans:
            return
        for other, accesses in self._accesses.items():
            if other is not lane:
                for earlier in accesses:
                    if earlier.number > clock.get(other, 0):
                        _compare(access, lane, earlier, other)
        self._accesses.setdefault(lane, deque(maxlen=REMEMBERED)).append(access)

    def waited(self, task: Task) -> None:
        """The host has waited for `task`: all that came before it is over for everything that comes now."""
        _merge(self._host, task.clock)
        for lane, accesses in self._accesses.items():
            while accesses and accesses[0].number <= self._host.get(lane, 0):
                accesses.popleft()

    def waited_for_all(self) -> None:
        """The host has waited for the device."""
        _merge(self._host, self._given)
        self._accesses.clear()

    def clear(self) -> None:
        """Forget everything: the context is gone."""
        self._host.clear()
        self._given.clear()
        self._accesses.clear()


def _merge(clock: Clock, other: Clock) -> None:
    for lane, number in other.items():
        if clock.get(lane, 0) < number:
            clock[lane] = number


def _compare(access: Access, lane: object, earlier: Access, other: object) -> None:
    for span in access.spans:
        for before in earlier.spans:
            if (span.written or before.written) and span.meets(before):
                _fail(access, lane, span, earlier, other, before)


def _fail(access: Access, lane: object, span: Span, earlier: Access, other: object, before: Span) -> None:
    address = max(span.address, before.address)
    verbs = ["writes" if side.written else "reads" for side in (span, before)]
    text = (
        f"this {access.name} on {lane} {verbs[0]} {describe(address)}, which the {earlier.name} given to {other} at "
        f"{earlier.site} {verbs[1]}, and neither waits for the other: record an event after one, let the other wait"
    )
    raise fault(Report("unordered access", access.name, None, None, address, access.site, text))


hazards = Hazards()
on_context_end.append(hazards.clear)
