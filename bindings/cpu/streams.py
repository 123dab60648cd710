"""Streams and events: ordered queues of operations, and points in them.

An operation is what a call gives to a stream: a kernel, a copy, a fill, a matrix product. `submit` is the only way to
give one: a capturing stream records it, any other runs it. Streams run what they are given at once, in the order of the
calls, which is one of the orders that CUDA allows. An operation that outlives its call is asked to `keep` its arguments
first, so streams that run later, or take turns, need a change in `Stream.enqueue` alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from cuda.bindings.driver import CUevent, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus

from bindings.cpu import fences
from bindings.cpu.context import (
    INVALID_VALUE,
    NOT_SUPPORTED,
    Failure,
    Table,
    entry_point,
    on_context_end,
    require_context,
)

LEGACY, PER_THREAD = 1, 2  # CU_STREAM_LEGACY, CU_STREAM_PER_THREAD; 0 means the first
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
EVENT_BLOCKING_SYNC, EVENT_DISABLE_TIMING, EVENT_INTERPROCESS = 1, 2, 4

UNSUPPORTED = CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED


class Operation(Protocol):
    """Work for a stream."""

    @property
    def name(self) -> str:
        """For reports."""

    def run(self) -> None:
        """Do it. Raises Failure, and has killed the context, if it faults."""

    def keep(self) -> None:
        """Copy every argument that the caller may change or free after the call."""

    def check(self) -> None:
        """Fail the call if memory or code that this needs is gone."""


@dataclass
class Capture:
    """A graph in the making. Node i is operations[i]; it runs after all of dependencies[i], which are smaller."""

    origin: Stream
    mode: CUstreamCaptureMode
    thread: int = field(default_factory=threading.get_ident)
    operations: list[Operation] = field(default_factory=list)
    dependencies: list[frozenset[int]] = field(default_factory=list)
    invalidated: bool = False
    ended: bool = False

    def add(self, stream: Stream, operation: Operation) -> None:
        """Record what `stream` was given."""
        if self.invalidated:
            raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        operation.keep()
        self.operations.append(operation)
        self.dependencies.append(stream.last_nodes)
        stream.last_nodes = frozenset((len(self.operations) - 1,))

    def ancestors(self, nodes: frozenset[int]) -> set[int]:
        """All nodes that `nodes` wait for, and themselves."""
        found, waiting = set(nodes), list(nodes)
        while waiting:
            new = self.dependencies[waiting.pop()] - found
            found |= new
            waiting.extend(new)
        return found

    def is_joined(self) -> bool:
        """Whether all that other streams recorded comes before something in the stream where the capture began."""
        recorded = self.ancestors(self.origin.last_nodes)
        return all(stream.last_nodes <= recorded for stream in all_streams() if stream.capture is self)

    def end(self) -> None:
        """Return every stream to normal."""
        self.ended = True
        for stream in all_streams():
            if stream.capture is self:
                stream.capture, stream.last_nodes = None, frozenset()

    def end_status(self) -> CUresult | None:
        """Why the capture can't become a graph; None if it can."""
        if self.invalidated:
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        return None if self.is_joined() else CUresult.CUDA_ERROR_STREAM_CAPTURE_UNJOINED

    @property
    def may_end_here(self) -> bool:
        """Whether this thread may end the capture."""
        return self.mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED or self._is_this_thread()

    @property
    def forbids_unsafe_calls(self) -> bool:
        """Whether this thread may not make a call that could wait for, or disturb, the device."""
        if self.mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED:
            return False
        everywhere = self.mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        return everywhere or self._is_this_thread()

    def _is_this_thread(self) -> bool:
        return self.thread == threading.get_ident()


@dataclass(eq=False)
class Stream:
    """A queue. While it captures, `last_nodes` are the nodes that the next one waits for."""

    blocking: bool
    is_legacy: bool = False
    capture: Capture | None = None
    last_nodes: frozenset[int] = frozenset()
    queue: deque[Operation] = field(default_factory=deque)

    def enqueue(self, operation: Operation) -> None:
        """Put an operation at the end of the queue, and run what is there."""
        self.queue.append(operation)
        try:
            while self.queue:
                self.queue.popleft().run()
        except Failure:
            self.queue.clear()
            raise


@dataclass(eq=False)
class Event:
    """A point in a stream: a time (ns), or the nodes of a capture."""

    timing: bool
    recorded_ns: int | None = None
    capture: Capture | None = None
    nodes: frozenset[int] = frozenset()


_legacy = Stream(blocking=True, is_legacy=True)
_per_thread = Stream(blocking=True)
_default_streams = {0: _legacy, LEGACY: _legacy, PER_THREAD: _per_thread}
streams: Table[Stream] = Table(CUstream)
events: Table[Event] = Table(CUevent)


def _end_captures() -> None:
    _per_thread.capture, _per_thread.last_nodes = None, frozenset()


on_context_end.append(_end_captures)


def all_streams() -> list[Stream]:
    """Every stream, the default ones too."""
    return [_legacy, _per_thread, *streams]


def captures() -> list[Capture]:
    """The captures under way."""
    return list({id(stream.capture): stream.capture for stream in all_streams() if stream.capture}.values())


def find_stream(handle: Any) -> Stream:
    """The stream of a handle. Fails the call on the default stream while a stream captures that waits for it."""
    number = int(handle)
    stream = _default_streams.get(number) or streams.get(number)
    if stream.is_legacy:
        for other in all_streams():
            if other.capture and other.blocking:
                other.capture.invalidated = True
                raise Failure(CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
    return stream


def submit(handle: Any, operation: Operation) -> None:
    """Give an operation to a stream."""
    stream = find_stream(handle)
    operation.check()
    if stream.capture:
        stream.capture.add(stream, operation)
    else:
        stream.enqueue(operation)
        fences.after_operation(operation.name)


def forbid(forbidden: list[Capture]) -> None:
    """Fail the call, and break these captures, if there are any."""
    for capture in forbidden:
        capture.invalidated = True
    if forbidden:
        raise Failure(UNSUPPORTED)


def require_safe() -> None:
    """The checks of a call that CUDA forbids while a stream captures, unless in relaxed mode."""
    require_context()
    forbid([capture for capture in captures() if capture.forbids_unsafe_calls])


@entry_point(values=1)
def cuStreamCreate(Flags: int) -> Any:
    """(status, stream). CU_STREAM_NON_BLOCKING or 0; only captures tell them apart."""
    if int(Flags) not in (0, NON_BLOCKING):
        raise Failure(INVALID_VALUE)
    return streams.add(Stream(blocking=int(Flags) != NON_BLOCKING))


@entry_point()
def cuStreamDestroy(hStream: Any) -> None:
    """(status,). A capture that the stream takes part in is broken."""
    stream = streams.remove(hStream)
    if stream.capture:
        stream.capture.invalidated = True
        if stream.capture.origin is stream:  # nobody can end it any more
            stream.capture.end()


@entry_point()
def cuStreamSynchronize(hStream: Any) -> None:
    """(status,). Looks at the fences of all memory."""
    stream = find_stream(hStream)
    forbid([stream.capture] if stream.capture else [])
    require_safe()
    fences.at_synchronisation()


@entry_point()
def cuStreamQuery(hStream: Any) -> None:
    """(status,): success, as all work is done when it is given."""
    stream = find_stream(hStream)
    forbid([stream.capture] if stream.capture else [])
    require_safe()


@entry_point()
def cuCtxSynchronize() -> None:
    """(status,). Looks at the fences of all memory."""
    forbid(captures())
    fences.at_synchronisation()


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


@entry_point(values=1)
def cuStreamIsCapturing(hStream: Any) -> CUstreamCaptureStatus:
    """(status, CUstreamCaptureStatus)."""
    capture = find_stream(hStream).capture
    if capture is None:
        return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    if capture.invalidated:
        return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE


@entry_point(values=1)
def cuEventCreate(Flags: int) -> Any:
    """(status, event). Events between processes are not offered."""
    flags = int(Flags)
    if flags & ~(EVENT_BLOCKING_SYNC | EVENT_DISABLE_TIMING | EVENT_INTERPROCESS):
        raise Failure(INVALID_VALUE)
    if flags & EVENT_INTERPROCESS:
        raise Failure(NOT_SUPPORTED if flags & EVENT_DISABLE_TIMING else INVALID_VALUE)
    return events.add(Event(timing=not flags & EVENT_DISABLE_TIMING))


@entry_point()
def cuEventDestroy(hEvent: Any) -> None:
    """(status,)."""
    events.remove(hEvent)


@entry_point()
def cuEventRecord(hEvent: Any, hStream: Any) -> None:
    """(status,). In a capture, the point among its nodes; else now, by the host's clock."""
    event, stream = events.get(hEvent), find_stream(hStream)
    event.capture, event.nodes = stream.capture, stream.last_nodes
    event.recorded_ns = None if stream.capture else time.perf_counter_ns()


def _require_real(event: Event) -> None:
    if event.capture:
        event.capture.invalidated = not event.capture.ended
        raise Failure(CUresult.CUDA_ERROR_CAPTURED_EVENT)
    require_safe()


@entry_point()
def cuEventQuery(hEvent: Any) -> None:
    """(status,): success, as all work is done when it is given."""
    _require_real(events.get(hEvent))


@entry_point()
def cuEventSynchronize(hEvent: Any) -> None:
    """(status,)."""
    _require_real(events.get(hEvent))


@entry_point(values=1)
def cuEventElapsedTime(hStart: Any, hEnd: Any) -> float:
    """(status, milliseconds) between two recorded events that keep time."""
    start, end = events.get(hStart), events.get(hEnd)
    if not (start.timing and end.timing) or start.recorded_ns is None or end.recorded_ns is None:
        raise Failure(CUresult.CUDA_ERROR_INVALID_HANDLE)
    return (end.recorded_ns - start.recorded_ns) / 1e6
