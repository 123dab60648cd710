"""Listens to a run: brings each call together with what the device did for it, and hands it to the views, in order.

A view shows or writes what it is given. The device's times come later than the calls; a call is handed on when its own
are there, and what came after it waits. Nothing is handed on before a device is open, since views begin with a header
that names it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from typing import Protocol

from bindings.activity import Choice, Clock, NoClock, choose_clock
from bindings.errors import CudaError
from bindings.trace import Event
from tools.trace.recording import VERSION, Recording


class View(Protocol):
    """Somewhere to look at a trace."""

    def header(self, header: Event) -> None:
        """Comes first."""

    def call(self, event: Event) -> None:
        """A call that is complete, in order of its number."""

    def note(self, note: Event) -> None:
        """A step of the engine, in its place between the calls."""

    def close(self) -> None:
        """The trace has ended."""


class Recorded:
    """The view that keeps everything, for those that need it whole."""

    def __init__(self) -> None:
        self.recording = Recording({})

    def header(self, header: Event) -> None:
        self.recording.header = header

    def call(self, event: Event) -> None:
        self.recording.records.append(event)

    def note(self, note: Event) -> None:
        self.recording.records.append(note)

    def close(self) -> None:
        pass


class Session:
    """A listener (bindings/trace.py) that feeds views. `rates` tells what a device can do at best."""

    def __init__(
        self,
        command: str,
        times: Choice,
        views: Sequence[View],
        rates: Callable[[Event], Event | None] = lambda _: None,
    ) -> None:
        self._command, self._times, self._views, self._rates = command, times, views, rates
        self._clock: Clock = NoClock()
        self._started = datetime.now(timezone.utc)
        self._queue: deque[Event] = deque()
        self._header: Event | None = None
        self._is_open = False

    def before(self, event: Event) -> None:
        """The first call opens the clock: by then the process has chosen its device."""
        if not self._is_open:
            self._is_open = True
            clock = choose_clock(self._times)
            clock.open()
            self._clock = clock
        self._clock.before(event)

    def after(self, event: Event) -> None:
        """Queue the call, and hand on what is complete."""
        self._clock.after(event)
        self._queue.append(event)
        self._hand_on()

    def note(self, note: Event) -> None:
        """The device's note makes the header; steps take their place in line."""
        if note["kind"] == "device":
            self._begin(note["device"])
        else:
            self._queue.append(note)
        self._hand_on()

    def _begin(self, device: Event | None) -> None:
        if self._header is not None:
            return  # a second device of the same process
        self._header = {
            "kind": "header",
            "version": VERSION,
            "command": self._command,
            "device": device,
            "clock": self._clock.name,
            "rates": None if device is None else self._rates(device),
            "started": self._started.isoformat(timespec="seconds"),
        }
        for view in self._views:
            view.header(self._header)

    def _hand_on(self) -> None:
        while self._queue and self._header is not None:
            record = self._queue[0]
            if record["kind"] == "call" and self._clock.is_open(record):
                return
            self._queue.popleft()
            for view in self._views:
                view.call(record) if record["kind"] == "call" else view.note(record)

    def close(self) -> None:
        """Take what times there are, and hand on the rest."""
        try:
            with suppress(CudaError):  # a dead context tells no times; the run has told why it is dead
                self._clock.close()
            self._clock = NoClock()
            self._begin(None)
            self._hand_on()
        finally:  # where one view can't write any more, the others still can
            with ExitStack() as stack:
                for view in reversed(self._views):
                    stack.callback(view.close)
