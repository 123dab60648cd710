"""Device times by pairs of events: what NVIDIA's driver alone can tell (see activity.py for what clocks are for).

One event stands in the stream before a call's work and one behind it, and the stream waits until both are there
(stream_gate.py). What an empty pair measures is taken off. The times are coarser than CUPTI's: an event's resolution is
half a microsecond, and a short kernel's time holds some of the launch. A graph is one activity: to see its kernels one
by one, they have to be launched one by one, so the engine is asked for that (`recorder.wants_eager`). Where streams
can't wait for the host (stream_gate.py: NoGate), the time of a short kernel is about that of its launch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

from bindings.activity import gives_work
from bindings.calls import driver
from bindings.errors import STICKY, CudaError
from bindings.handles import handle_named
from bindings.stream_gate import Gate, NoGate, make_gate
from bindings.trace import Event, recorder

EMPTY_PAIRS = 33


class Mark:
    """An event of the driver's that keeps time."""

    def __init__(self) -> None:
        self.handle = driver.cuEventCreate(0)

    def record(self, stream: Any) -> None:
        """Let it stand at the end of what `stream` was given so far."""
        driver.cuEventRecord(self.handle, stream)

    def reached(self) -> bool:
        """Whether the stream has come there."""
        try:
            driver.cuEventQuery(self.handle)
        except CudaError as error:
            if error.name != "CUDA_ERROR_NOT_READY":
                raise
            return False
        return True

    def us_since(self, earlier: Mark) -> float:
        """Device time between two marks that were reached, in microseconds."""
        return 1e3 * float(driver.cuEventElapsedTime(earlier.handle, self.handle))


class EventClock:
    """Measures each call's work by a pair of events (activity.py: Clock)."""

    name = "event pairs"

    def __init__(self) -> None:
        self._free: list[Mark] = []
        self._waiting: deque[tuple[Event, Mark, Mark]] = deque()
        self._start: Mark | None = None
        self._gate: Gate | NoGate = NoGate()
        self._origin: Mark | None = None
        self._origin_us = self._empty_us = 0.0
        self._context_is_dead = False

    def open(self) -> None:
        """Ask for kernels one by one, and for code that is loaded whole. The rest begins with the first stream."""
        recorder.wants_eager = True
        os.environ["CUDA_MODULE_LOADING"] = "EAGER"  # read by cuInit; a lazy load would wait behind the gate for ever

    def before(self, event: Event) -> None:
        """Mark where the call's work begins. With the context go its events."""
        if event["call"] == "cuDevicePrimaryCtxRelease":
            self._release()
        if "stream" in event and "captured" not in event:
            with self._asking_nothing_of_the_dead():
                self._mark_start(event, handle_named(event["stream"]))

    def _mark_start(self, event: Event, stream: Any) -> None:
        if self._context_is_dead:
            return
        if self._origin is None:
            self._begin(stream)
        self._start = self._take()
        if "op" in event or "kernel" in event:
            self._gate.close(stream)
        self._start.record(stream)

    def after(self, event: Event) -> None:
        """Mark where it ends."""
        self._context_is_dead |= event["result"] in STICKY
        with self._asking_nothing_of_the_dead():
            if not self._context_is_dead:
                self._mark_end(event)
                if event["call"].endswith("Synchronize"):
                    self.settle()
        self._gate.open()

    def _mark_end(self, event: Event) -> None:
        start, self._start = self._start, None
        if start is not None and gives_work(event):
            end = self._take()
            end.record(handle_named(event["stream"]))
            self._waiting.append((event, start, end))
        elif start is not None:
            self._free.append(start)

    @contextmanager
    def _asking_nothing_of_the_dead(self) -> Iterator[None]:
        """A dead context tells no times. That it died, the program is told by a call of its own."""
        try:
            yield
        except CudaError as error:
            self._gate.open()
            if error.name not in STICKY:
                raise
            self._context_is_dead = True

    def note(self, note: Event) -> None:
        """Nothing to note."""

    def _take(self) -> Mark:
        return self._free.pop() if self._free else Mark()

    def _begin(self, stream: Any) -> None:
        """Where the device's clock stands by the host's, and what a pair with nothing in it measures."""
        self._gate = make_gate(driver.cuCtxGetDevice())
        marks = [Mark() for _ in range(EMPTY_PAIRS + 1)]
        self._gate.close(stream)
        for mark in marks:
            mark.record(stream)
        self._gate.open()
        driver.cuStreamSynchronize(stream)
        self._empty_us = median(later.us_since(earlier) for earlier, later in pairwise(marks))
        self._origin, *self._free = marks
        self._origin.record(stream)
        driver.cuStreamSynchronize(stream)
        self._origin_us = recorder.now_us()

    def settle(self) -> None:
        """Read the pairs that the device has passed."""
        while self._waiting and self._waiting[0][2].reached():
            event, start, end = self._waiting.popleft()
            event["activities"] = [self._activity(event, start, end)]
            self._free += [start, end]

    def _activity(self, event: Event, start: Mark, end: Mark) -> Event:
        assert self._origin is not None
        begins = self._origin_us + start.us_since(self._origin)
        activity = {
            "what": _kind(event),
            "name": str(event.get("kernel") or event.get("op") or event["call"]),
            "start_us": begins,
            "end_us": begins + max(end.us_since(start) - self._empty_us, 0.0),
            "stream": event["stream"],
        }
        return {**activity, "replayed": True} if "replayed" in event else activity

    def is_open(self, event: Event) -> bool:
        """Whether its pair has not been read."""
        return any(event is waiting for waiting, _, _ in self._waiting)

    def close(self) -> None:
        """Let the engine use graphs again, and destroy the events."""
        recorder.wants_eager = False
        self._release()

    def _release(self) -> None:
        """Give back what belongs to the context. What was not read by now is not known."""
        marks = self._free + [mark for _, start, end in self._waiting for mark in (start, end)]
        gate, others = self._gate, [mark for mark in (self._origin, self._start) if mark]
        self._waiting.clear()
        self._free, self._origin, self._start, self._gate = [], None, None, NoGate()
        with self._asking_nothing_of_the_dead():
            gate.free()
            for mark in [*marks, *others]:
                driver.cuEventDestroy(mark.handle)
        self._context_is_dead = False


def _kind(event: Event) -> str:
    if "kernel" in event:
        return "kernel"
    if event["call"].startswith("cuMemcpy"):
        return "copy"
    if event["call"].startswith("cuMemset"):
        return "fill"
    return "graph" if event["call"] == "cuGraphLaunch" else "product"
