"""When the CPU device runs what: for its clock (clock.py).

Every operation runs through `run`. While nobody watches, that is a call and a comparison more; while somebody does, it
notes when the operation began and ended, and for which call: with lazy streams that is not the call under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from bindings.cpu.operations import Operation


class Origin(NamedTuple):
    """Where an operation comes from: the number of the call that gave it, and of its node if that was a graph."""

    call: int
    node: int | None = None


class Span(NamedTuple):
    """What ran, and when, by time.perf_counter_ns."""

    origin: Origin
    what: str
    name: str
    start_ns: int
    end_ns: int


NOBODY = Origin(0)

_origin = NOBODY
_tell: Callable[[Span], None] | None = None


def origin() -> Origin:
    """Where an operation that is given to a stream now comes from."""
    return _origin


def watched() -> bool:
    """Whether somebody wants to know when operations run."""
    return _tell is not None


def run(operation: Operation, where: Origin) -> None:
    """Run an operation. Raises Failure, and has killed the context, if it faults."""
    if _tell is None:
        operation.run()
        return
    if not operation.what:
        _run_within(operation, where)
        return
    start = time.perf_counter_ns()
    operation.run()
    _tell(Span(where, operation.what, operation.name, start, time.perf_counter_ns()))


def _run_within(operation: Operation, where: Origin) -> None:
    """Run what takes no time of its own: if it is a graph inside a graph, what it consists of comes from there."""
    before = _origin
    comes_from(where)
    try:
        operation.run()
    finally:
        comes_from(before)


def watch(tell: Callable[[Span], None] | None) -> None:
    """From now on tell of what runs; None: nobody watches."""
    global _tell
    _tell = tell


def comes_from(where: Origin) -> None:
    """What is given to a stream from now on comes from there."""
    global _origin
    _origin = where
