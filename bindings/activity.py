"""What the device did, and when: the kernels, copies and fills behind a call that was recorded (trace.py).

A clock listens to calls. When it knows what a call led to, it puts a list under `activities` into the call's event:

    what      "kernel", "copy", "fill" or "product"        name: the kernel's own
    start_us, end_us    by the clock of `t_us`             stream: "stream 1"
    of        inside a graph: the number of the captured call that this is
    replayed  true where it ran in place of a node of a graph

Three clocks: CUPTI inside NVIDIA's driver, which knows every kernel (cupti_clock.py); pairs of events around each call
where that is not installed (event_clock.py); and the CPU device, which does the work itself (cpu/clock.py).
"""

from __future__ import annotations

import importlib.util
from typing import Literal, Protocol, get_args

from bindings import backend
from bindings.errors import CutawayError
from bindings.trace import Event, Listener

Choice = Literal["auto", "cupti", "events", "off"]


class Clock(Listener, Protocol):
    """Listens to calls, and tells what came of them. `name` says for people where the times come from."""

    name: str

    def open(self) -> None:
        """Begin. Raises CutawayError when the device's times can't be had this way."""

    def settle(self) -> None:
        """Put `activities` into the events of calls whose work is known to have ended. Waits for nothing."""

    def is_open(self, event: Event) -> bool:
        """Whether something is still to come for this call."""

    def close(self) -> None:
        """End: what is not known by now is never known."""


def gives_work(event: Event) -> bool:
    """Whether a call gave something to a stream that runs."""
    return "captured" not in event and asks_for_work(event)


def asks_for_work(event: Event) -> bool:
    """Whether a call gave something to a stream, which may be captured. A copy or a fill of no bytes is nothing."""
    is_empty = event.get("bytes") == 0 and "op" not in event
    return "stream" in event and event["result"] == "ok" and not is_empty


class NoClock:
    """Keeps no times."""

    name = "none"

    def open(self) -> None:
        """Nothing to begin."""

    def before(self, event: Event) -> None:
        """Nothing to note."""

    def after(self, event: Event) -> None:
        """Nothing to note."""

    def note(self, note: Event) -> None:
        """Nothing to note."""

    def settle(self) -> None:
        """Nothing is known."""

    def is_open(self, event: Event) -> bool:
        """Nothing is to come."""
        return False

    def close(self) -> None:
        """Nothing to end."""


def choose_clock(choice: Choice) -> Clock:
    """The clock for the device of this process. `auto`: the most exact one that there is.

    Raises CutawayError where `cupti` is asked for and can't be had, and for another word.
    """
    if choice not in get_args(Choice):
        raise CutawayError(f"device times from {choice!r}: it must be one of {', '.join(get_args(Choice))}")
    if choice == "off":
        return NoClock()
    if choice == "events":
        from bindings.event_clock import EventClock

        return EventClock()
    if backend.select().kind == "cpu":
        if choice == "cupti":
            raise CutawayError("CUPTI is for NVIDIA's GPUs; the CPU device keeps its own times: leave it at auto")
        from bindings.cpu.clock import CpuClock

        return CpuClock()
    return _choose_on_gpu(choice)


def _choose_on_gpu(choice: Choice) -> Clock:
    if importlib.util.find_spec("cupti") is not None:
        from bindings.cupti_clock import CuptiClock

        return CuptiClock()
    if choice == "cupti":
        raise CutawayError('the Python package "cupti" is missing: run pip install -e ".[trace]"')
    from bindings.event_clock import EventClock

    return EventClock()
