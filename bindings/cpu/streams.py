"""Streams: what is given to them, in which order, and who waits for it.

`submit` is the only way to give a stream an operation: a capturing stream records it, an eager one runs it, a lazy one
lines it up (pending.py) behind what CUDA says must come first. That is the operation before it in its stream, and the
default stream's rule: the legacy default stream waits for all streams that are not CU_STREAM_NON_BLOCKING, and those
wait for it. Events are in events.py.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cuda.bindings.driver import CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus

from bindings.cpu import activity, context, fences
from bindings.cpu.context import (
    INVALID_VALUE,
    Failure,
    Table,
    entry_point,
    on_context_end,
    require_context,
)
from bindings.cpu.hazards import hazards
from bindings.cpu.operations import Nodes, Operation
from bindings.cpu.pending import Clock, Task, pending
from bindings.errors import CutawayError
from bindings.trace import call_site

MODES = ("eager", "lazy")
LEGACY, PER_THREAD = 1, 2  # CU_STREAM_LEGACY, CU_STREAM_PER_THREAD; 0 means the first
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

UNSUPPORTED = CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
NOT_READY = CUresult.CUDA_ERROR_NOT_READY


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
    """A stream. While it captures, `last_nodes` are the nodes that the next one waits for; `last` is its last task."""

    blocking: bool
    is_legacy: bool = False
    label: str = "the default stream"
    capture: Capture | None = None
    last_nodes: frozenset[int] = frozenset()
    last: Task | None = None

    def __str__(self) -> str:
        return self.label


_legacy = Stream(blocking=True, is_legacy=True)
_per_thread = Stream(blocking=True, label="the per-thread default stream")
_default_streams = {0: _legacy, LEGACY: _legacy, PER_THREAD: _per_thread}
streams: Table[Stream] = Table(CUstream, "stream")
_destroyed: list[Stream] = []  # with work that has not run


def _reset_default_streams() -> None:
    _per_thread.capture, _per_thread.last_nodes = None, frozenset()
    _per_thread.last = _legacy.last = None
    _destroyed.clear()


on_context_end.append(_reset_default_streams)


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


def submit(handle: Any, operation: Operation) -> Task | None:
    """Give an operation to a stream; its task, if it runs later."""
    stream = find_stream(handle)
    operation.check()
    if stream.capture:
        stream.capture.add(stream, operation)
        return None
    if pending.lazy:
        return _line_up(stream, operation)
    activity.run(operation, activity.origin())
    fences.after_operation(operation.name)
    return None


def runs_later(handle: Any) -> bool:
    """Whether what this stream is given now runs after the call, though it is not captured."""
    return pending.lazy and not find_stream(handle).capture


def _line_up(stream: Stream, operation: Operation) -> Task:
    """Let an operation wait behind what CUDA says must come first."""
    site, after = call_site(), _before_next(stream)
    clock = hazards.tick(stream, after)
    hazards.record(stream, operation, clock, site)
    nodes = operation.nodes()
    if nodes is None:
        operation.keep()
        stream.last = pending.add(stream, operation, after, site, clock)
    else:
        ends = _line_up_nodes(stream, nodes, after, site, clock)
        stream.last = pending.add(stream, None, ends, site, clock)
    return stream.last


def _line_up_nodes(
    stream: Stream, nodes: Nodes, after: list[Task], site: str, clock: Clock, within: int | None = None
) -> list[Task]:
    """Each node of a graph behind those that it waits for, the first behind `after`; the tasks at the end of it all.

    `within`: the number of the node that this graph is of another one.
    """
    ends: list[list[Task]] = []
    for operation, dependencies in nodes:
        waits = [task for number in dependencies for task in ends[number]] if dependencies else after
        inner, node = operation.nodes(), len(ends) if within is None else within
        if inner is None:
            ends.append([pending.add(stream, operation, waits, site, clock, node)])
        else:
            ends.append(_line_up_nodes(stream, inner, waits, site, clock, node))
    return [task for group in ends for task in group] or after


def line_up_wait(stream: Stream, task: Task) -> None:
    """Let what `stream` is given from now on wait for `task` too."""
    after = [*_before_next(stream), task]
    stream.last = pending.add(stream, None, after, "", hazards.tick(stream, after))


def _before_next(stream: Stream) -> list[Task]:
    """The tasks that the next operation of `stream` comes after."""
    before = [stream, _legacy] if stream.blocking else [stream]
    if stream.is_legacy:
        before += [other for other in [*all_streams(), *_destroyed] if other.blocking]
    return [one.last for one in before if one.last]


def wait_for(task: Task | None) -> None:
    """Run what waits until `task` is done, as the host waits for it. Fails the call if anything faults."""
    if task:
        try:
            pending.finish(task)
        except Failure:
            hazards.waited_for_all()  # nothing is under way any more
            raise
        hazards.waited(task)


def wait_for_all() -> None:
    """Run everything that waits, as the host waits for the device. Fails the call if anything faults."""
    try:
        pending.finish_all()
    finally:
        hazards.waited_for_all()
        _destroyed.clear()


def is_done(task: Task | None) -> bool:
    """Whether `task` is done, as the host now knows; if it is not, a few tasks run after the question."""
    if task and not task.done:
        pending.advance()
        return False
    wait_for(task)
    return True


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


def set_streams(mode: str, seed: int = 0) -> None:
    """Run what streams are given at once (`eager`), or late and interleaved by `seed` (`lazy`). Not in CUDA.

    Raises CutawayError on another word, and on a seed that is not from 0 to 2^64 - 1.
    """
    if mode not in MODES:
        raise CutawayError(f"streams {mode!r} is not one of {', '.join(MODES)}")
    if not 0 <= seed < 2**64:
        raise CutawayError(f"the streams' seed {seed} is not from 0 to 2^64 - 1")
    with context.lock:
        with suppress(Failure):  # the next call tells it
            wait_for_all()
        pending.switch(mode == "lazy", seed)


def set_streams_from_environment() -> None:
    """CUTAWAY_CPU_STREAMS as `eager`, `lazy` or `lazy:7`. Raises CutawayError on another word."""
    text = os.environ.get("CUTAWAY_CPU_STREAMS", "")
    mode, colon, seed = text.partition(":")
    if text:
        if mode not in MODES or (colon and not (mode == "lazy" and seed.isdecimal() and int(seed) < 2**64)):
            raise CutawayError(f"CUTAWAY_CPU_STREAMS is {text!r}; it must be eager, lazy or lazy:SEED")
        set_streams(mode, int(seed or 0))


@entry_point(values=1)
def cuStreamCreate(Flags: int) -> Any:
    """(status, stream). CU_STREAM_NON_BLOCKING or 0; only captures tell them apart."""
    if int(Flags) not in (0, NON_BLOCKING):
        raise Failure(INVALID_VALUE)
    stream = Stream(blocking=int(Flags) != NON_BLOCKING)
    handle = streams.add(stream)
    stream.label = f"stream {int(handle):#x}"
    return handle


@entry_point()
def cuStreamDestroy(hStream: Any) -> None:
    """(status,). What it was given still runs. A capture that the stream takes part in is broken."""
    stream = streams.remove(hStream)
    if stream.last and not stream.last.done:
        _destroyed.append(stream)
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
    wait_for(stream.last)
    fences.at_synchronisation()


@entry_point()
def cuStreamQuery(hStream: Any) -> None:
    """(status,): success, or CUDA_ERROR_NOT_READY while something waits; a later question finds more of it done."""
    stream = find_stream(hStream)
    forbid([stream.capture] if stream.capture else [])
    require_safe()
    if not is_done(stream.last):
        raise Failure(NOT_READY)


@entry_point()
def cuCtxSynchronize() -> None:
    """(status,). Looks at the fences of all memory."""
    forbid(captures())
    wait_for_all()
    fences.at_synchronisation()


@entry_point(values=1)
def cuStreamIsCapturing(hStream: Any) -> CUstreamCaptureStatus:
    """(status, CUstreamCaptureStatus)."""
    capture = find_stream(hStream).capture
    if capture is None:
        return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    if capture.invalidated:
        return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    return CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
