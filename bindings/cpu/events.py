"""Events: points in streams that the host or another stream can wait for, and the times at which they were reached."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from cuda.bindings.driver import CUevent, CUresult

from bindings.cpu.context import INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, Failure, Table, entry_point
from bindings.cpu.operations import Operation
from bindings.cpu.pending import Task
from bindings.cpu.streams import NOT_READY, Capture, find_stream, is_done, line_up_wait, require_safe, submit, wait_for

BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS = 1, 2, 4


class Mark(Operation):
    """The point that one cuEventRecord made; `reached_ns` by the host's clock, None before."""

    name = "event"

    def __init__(self) -> None:
        self.reached_ns: int | None = None

    def run(self) -> None:
        self.reached_ns = time.perf_counter_ns()


@dataclass(eq=False)
class Event:
    """The last point recorded: a mark in a stream, with its task if that is lazy, or the nodes of a capture."""

    timing: bool
    mark: Mark | None = None
    task: Task | None = None
    capture: Capture | None = None
    nodes: frozenset[int] = frozenset()


events: Table[Event] = Table(CUevent, "event")


@entry_point()
def cuStreamWaitEvent(hStream: Any, hEvent: Any, Flags: int) -> None:
    """(status,). An event of a capture draws the stream into that capture."""
    stream, event = find_stream(hStream), events.get(hEvent)
    if int(Flags):
        raise Failure(NOT_SUPPORTED)  # CU_EVENT_WAIT_EXTERNAL: event nodes in graphs are not offered
    if event.capture and event.capture.ended:
        raise Failure(CUresult.CUDA_ERROR_CAPTURED_EVENT)
    if stream.capture and stream.capture is not event.capture:
        status = "MERGE" if event.capture else "ISOLATION"
        stream.capture.invalidated = True
        raise Failure(getattr(CUresult, f"CUDA_ERROR_STREAM_CAPTURE_{status}"))
    if event.capture:
        if stream.is_legacy:
            raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
        stream.capture = event.capture
        stream.last_nodes |= event.nodes
    elif event.task:
        line_up_wait(stream, event.task)


@entry_point(values=1)
def cuEventCreate(Flags: int) -> Any:
    """(status, event). Events between processes are not offered."""
    flags = int(Flags)
    if flags & ~(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS):
        raise Failure(INVALID_VALUE)
    if flags & INTERPROCESS:
        raise Failure(NOT_SUPPORTED if flags & DISABLE_TIMING else INVALID_VALUE)
    return events.add(Event(timing=not flags & DISABLE_TIMING))


@entry_point()
def cuEventDestroy(hEvent: Any) -> None:
    """(status,)."""
    events.remove(hEvent)


@entry_point()
def cuEventRecord(hEvent: Any, hStream: Any) -> None:
    """(status,). In a capture, the point among its nodes; else the end of what the stream was given until now."""
    event, stream = events.get(hEvent), find_stream(hStream)
    event.capture, event.nodes = stream.capture, stream.last_nodes
    event.mark = event.task = None
    if not stream.capture:
        event.mark = Mark()
        event.task = submit(hStream, event.mark)


def _require_real(event: Event) -> None:
    if event.capture:
        event.capture.invalidated = not event.capture.ended
        raise Failure(CUresult.CUDA_ERROR_CAPTURED_EVENT)
    require_safe()


@entry_point()
def cuEventQuery(hEvent: Any) -> None:
    """(status,): success, or CUDA_ERROR_NOT_READY before the point is reached; a later question finds more done."""
    event = events.get(hEvent)
    _require_real(event)
    if not is_done(event.task):
        raise Failure(NOT_READY)


@entry_point()
def cuEventSynchronize(hEvent: Any) -> None:
    """(status,)."""
    event = events.get(hEvent)
    _require_real(event)
    wait_for(event.task)


@entry_point(values=1)
def cuEventElapsedTime(hStart: Any, hEnd: Any) -> float:
    """(status, milliseconds) between two recorded events that keep time; CUDA_ERROR_NOT_READY before that."""
    start, end = events.get(hStart), events.get(hEnd)
    if not (start.timing and end.timing and start.mark and end.mark):
        raise Failure(INVALID_HANDLE)
    if start.mark.reached_ns is None or end.mark.reached_ns is None:
        raise Failure(NOT_READY)
    return (end.mark.reached_ns - start.mark.reached_ns) / 1e6
