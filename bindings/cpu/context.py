"""What every driver call of the CPU device shares: the one context, its checks, its sticky error, its handles.

A call first asks what CUDA asks: is the driver initialised, is a context current on this thread, has an earlier fault
killed it. The device does one thing at a time: a lock around every call makes that hold for several Python threads.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

from cuda.bindings.driver import CUresult

from bindings.cpu.executor import Report
from bindings.trace import call_site

SUCCESS = CUresult.CUDA_SUCCESS
INVALID_VALUE = CUresult.CUDA_ERROR_INVALID_VALUE
INVALID_HANDLE = CUresult.CUDA_ERROR_INVALID_HANDLE
NOT_SUPPORTED = CUresult.CUDA_ERROR_NOT_SUPPORTED

PRIMARY_CONTEXT = 0x10

# The status that a kernel's fault becomes, by the report's kind; every other kind is a failed launch.
FAULT_STATUS = {
    "illegal address": CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,
    "misaligned address": CUresult.CUDA_ERROR_MISALIGNED_ADDRESS,
    "illegal instruction": CUresult.CUDA_ERROR_ILLEGAL_INSTRUCTION,
    "stack overflow": CUresult.CUDA_ERROR_HARDWARE_STACK_ERROR,
    "assertion failed": CUresult.CUDA_ERROR_ASSERT,
}


class Failure(Exception):
    """Ends a driver call with a status; never seen outside this package. `why` is for `last_refusal`."""

    def __init__(self, status: CUresult, why: str = "") -> None:
        super().__init__(status.name)
        self.status, self.why = status, why


@dataclass
class DeviceState:
    """The one device. `retained` counts holders of the primary context; `epoch` grows when memory or code goes away."""

    initialised: bool = False
    retained: int = 0
    sticky: CUresult = SUCCESS
    report: Report | None = None
    refusal: str = ""
    reports_leaks: bool = False
    epoch: int = 0


state = DeviceState()
lock = threading.RLock()
_thread = threading.local()

# Called when the last holder releases the primary context: each module forgets what the context owned.
on_context_end: list[Callable[[], None]] = []


def current_context() -> int:
    """The context current on this thread, 0 if none."""
    return getattr(_thread, "context", 0)


def set_current_context(context: int) -> None:
    """Make `context` (0: none) current on this thread."""
    _thread.context = context


def require_context() -> None:
    """The checks of a call that needs a living, current context."""
    if not state.initialised:
        raise Failure(CUresult.CUDA_ERROR_NOT_INITIALIZED)
    if not current_context():
        raise Failure(CUresult.CUDA_ERROR_INVALID_CONTEXT)
    if not state.retained:
        raise Failure(CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED)
    if state.sticky is not SUCCESS:
        raise Failure(state.sticky)


def require_driver() -> None:
    """The check of a call that needs cuInit only."""
    if not state.initialised:
        raise Failure(CUresult.CUDA_ERROR_NOT_INITIALIZED)


def require_nothing() -> None:
    """For the calls that always work."""


def entry_point(values: int = 0, needs: Callable[[], None] = require_context) -> Callable[..., Any]:
    """Make a function a driver call: check first, answer `(status, *values)`, with Nones beside a failure.

    The function returns its one value, or a tuple of `values` of them, and raises Failure for any other status.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> tuple[Any, ...]:
            with lock:
                try:
                    needs()
                    answer = function(*arguments, **named)
                except Failure as failure:
                    state.refusal = failure.why
                    return (failure.status, *[None] * values)
            if values == 0:
                return (SUCCESS,)
            return (SUCCESS, answer) if values == 1 else (SUCCESS, *answer)

        return call

    return decorate


def fault(report: Report, where: str = "") -> Failure:
    """Kill the context: from now on every call that needs it fails with the status that this returns.

    `where` says what the address belongs to, and joins the report's text.
    """
    state.sticky = FAULT_STATUS.get(report.kind, CUresult.CUDA_ERROR_LAUNCH_FAILED)
    state.report = replace(report, text=f"{report.text} ({where})") if where else report
    return Failure(state.sticky)


def last_report() -> Report | None:
    """Why the last failed launch, copy or product failed; None if none has. Not in CUDA."""
    return state.report


def last_refusal() -> str:
    """Why the last call that failed was refused, where the status alone says too little; else "". Not in CUDA."""
    return state.refusal


def reset_sticky() -> None:
    """Bring the context back to life after a fault, for tests: CUDA needs a new process. Not in CUDA."""
    state.sticky, state.report = SUCCESS, None


def _forget_in_child() -> None:
    # As with CUDA, a forked child has to start anew; its parent's threads and lock holders are not there.
    global lock
    state.initialised, state.retained = False, 0
    lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_in_child)


Thing = TypeVar("Thing")
_numbers = itertools.count(0x1000, 0x10)  # one sequence for all kinds, so that no handle passes for another kind's


class Table(Generic[Thing]):
    """The living objects of one kind behind their handles (`CUstream`, `CUevent`, …).

    `what` they are called when they leak; "" for those that end with another object.
    """

    told: ClassVar[list[Table[Any]]] = []  # all that have a `what`

    def __init__(self, handle_type: Callable[[int], Any], what: str = "", invalid: CUresult = INVALID_HANDLE) -> None:
        self._handle_type, self.what, self._invalid = handle_type, what, invalid
        self._things: dict[int, Thing] = {}
        self._sites: dict[int, str] = {}
        on_context_end.append(self._things.clear)
        if what:
            Table.told.append(self)

    def add(self, thing: Thing) -> Any:
        """A new handle of `thing`."""
        number = next(_numbers)
        self._things[number] = thing
        if state.reports_leaks:
            self._sites[number] = call_site()
        return self._handle_type(number)

    def sites(self) -> list[str]:
        """For each living object the Python line that made it."""
        return [self._sites.get(number, "an unknown line") for number in self._things]

    def get(self, handle: Any) -> Thing:
        """The object behind a handle; fails the call if it was destroyed or is another kind's."""
        thing = self._things.get(int(handle))
        if thing is None:
            raise Failure(self._invalid)
        return thing

    def remove(self, handle: Any) -> Thing:
        """Take the object off the table: its handle is dead."""
        thing = self.get(handle)
        del self._things[int(handle)]
        self._sites.pop(int(handle), None)
        return thing

    def __iter__(self) -> Iterator[Thing]:
        return iter(list(self._things.values()))
