"""A session: the program stands still before a call, and a person looks around and says how it goes on.

The debugger listens to the recorder (bindings/trace.py), which calls it before and after every driver, NVRTC and cuBLAS
call; what it is asked there it answers while the call waits. Calls of other threads than its own, which compile
kernels, go on without it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from numpy.typing import NDArray

from bindings.errors import STICKY
from bindings.tensor import Tensor
from bindings.trace import Event, recorder
from tools.trace.debugger import kv_place, show, table
from tools.trace.debugger.breakpoints import Breakpoint, Breakpoints, Place, doubt
from tools.trace.debugger.console import Console
from tools.trace.debugger.device_memory import DeviceMemory, Region
from tools.trace.debugger.errors import CommandError, Quit
from tools.trace.debugger.goals import After, Goal, Never, Returned
from tools.trace.debugger.kv_place import Layout
from tools.trace.debugger.looking import figures_at
from tools.trace.debugger.pool import Pool

# Where a program may be ended: at calls that do work. One that is ended between two that open or close something would
# leave half of it behind.
_WORK = ("cuLaunchKernel", "cuGraphLaunch", "cuMemcpy", "cuMemset", "cuEventSynchronize", "cublasGemm")
_COMPILE = "nvrtcCreateProgram"
_FIRST_HELD = "cuDevicePrimaryCtxRetain"  # before it, nothing is open

GREETING = "help lists the commands; Enter: next call, step: next step, quit: the end"


class Debugger:
    """A listener that stops the program, and the state of the conversation.

    `event` is the call that the program stands at, `has_returned` whether it has been made, `operands` its tensors.
    """

    def __init__(self, console: Console, places: Iterable[Place] = ()) -> None:
        self.console, self.breakpoints = console, Breakpoints()
        self.memory, self.pool = DeviceMemory(), Pool()
        self.layout: Layout | None = None
        self.looked_at: dict[tuple[Region, str], NDArray] = {}
        self.event: Event = {}
        self.has_returned = False
        self.operands: Mapping[str, Tensor] = {}
        self._thread = threading.get_ident()
        self._is_leaving = self._holds_anything = self._is_detached = self._has_greeted = False
        for place in places:
            self.breakpoints.add(place)
            if doubt(place):
                self.write(doubt(place))
        self._goal: Goal = Never() if len(self.breakpoints) else After(1)
        console.offer(lambda line, word: table.completions(self, line, word))

    def write(self, text: str = "") -> None:
        """A line of the answer."""
        self.console.write(text)

    def before(self, event: Event) -> None:
        """Stop here if this is where to. Raises Quit where the program is to end."""
        if self._is_leaving:
            self._leave(event)
        if not self._watches():
            return
        self._stand(event, has_returned=False)
        met = self.breakpoints.met(event)
        if self._goal.reached(event) or met:
            self._stop(met)

    def after(self, event: Event) -> None:
        """Stop here if the call was to be looked at when it has returned, or if it has killed the context."""
        self._holds_anything |= event["call"] == _FIRST_HELD
        self.memory.follow(event)
        if self._watches() and (isinstance(self._goal, Returned) or event["result"] in STICKY):
            self._stand(event, has_returned=True)
            self._stop([])

    def note(self, note: Event) -> None:
        """A step is about to run."""
        self.pool.take(note)

    def _watches(self) -> bool:
        """Not while the program ends, nor when nobody says anything more; and not in other threads."""
        is_over = self._is_leaving or self._is_detached or isinstance(sys.exc_info()[1], KeyboardInterrupt)
        return not is_over and threading.get_ident() == self._thread

    def _stand(self, event: Event, has_returned: bool) -> None:
        self.event, self.has_returned = event, has_returned
        self.operands = recorder.operands if "tensors" in event else {}
        self.memory.remember(self.operands)
        self.layout = Layout.of(self.operands) or self.layout
        if self.layout:
            self.memory.know(self.layout.pages)  # all layers by this name, not the first one's keys alone

    def _stop(self, met: list[Breakpoint]) -> None:
        try:
            for point in met:
                self.write(self.console.paint(f"\nbreakpoint {point.number}: {point.place}", "time"))
            self.show_stop()
            self._greet()
            self._goal = self._converse()
        except Quit:
            self._is_leaving = True
            if not self.has_returned:
                self._leave(self.event)
        except BaseException:  # Ctrl-C, a reader of the output that went away: the calls that clean up are not for us
            self._is_detached = True
            raise

    def _greet(self) -> None:
        if self.console.is_terminal and not self._has_greeted:
            self._has_greeted = True
            self.write(self.console.paint(GREETING, "dim"))

    def _converse(self) -> Goal:
        """Do what is asked until something lets the program run."""
        while True:
            line = self.console.read(f"{'after' if self.has_returned else 'before'} {self.event['n']}> ")
            if line is None:
                self._is_detached = True
                return Never()
            try:
                goal = table.perform(self, line)
            except CommandError as error:
                self.write(self.console.paint(str(error), "error"))
            else:
                if goal is not None:
                    return goal

    def _leave(self, event: Event) -> None:
        """End the program here, unless that would leave something behind: then at a later call."""
        if not self._holds_anything or event["call"].startswith((*_WORK, _COMPILE)):
            raise Quit

    def show_stop(self) -> None:
        """Where the program stands."""
        self.write(f"\n{show.heading(self.event, self.console.paint)}")
        if self.has_returned:
            self.write(f"  returned {self.event['result']} after {self.event['host_us']:,.0f} us of host time")
            self.show_outputs()
        else:
            for line in show.call(self.event, self.console.paint, self.console.screen.width):
                self.write(line)

    def show_outputs(self) -> None:
        """The figures of what the call has written."""
        written = [name for name, role in self.event.get("roles", {}).items() if role != "in"]
        if not written:
            self.write("  it writes to no tensor that has a name here")
        for name in written:
            region = Region.of(self.operands[name])
            self.write(f"    {name}  {region}\n        {self._figures(region)}")

    def _figures(self, region: Region) -> str:
        """In a line, or why there are none. Of all KV pages they would say nothing, and take long on a large device."""
        if region.name.startswith(kv_place.BUFFER):
            return "of these pages the call wrote a few rows: kv TOKEN shows one"
        try:
            figures, _ = figures_at(self, region)
            return figures.line()
        except CommandError as error:
            return str(error)

    def close(self) -> None:
        """Say which breakpoints were never met: their names may be misspelt."""
        self.console.close()
        if not self._is_leaving:
            for point in self.breakpoints:
                if not point.hits:
                    self.write(f"breakpoint {point.number} was never met: {point.place}")


@contextmanager
def debugging(debugger: Debugger, keep_graphs: bool = False) -> Iterator[None]:
    """Let `debugger` stop the program inside the block, which `quit` ends.

    The engine launches every kernel by a call of its own meanwhile, unless `keep_graphs`.
    It hears first of a call, so that nobody's clock runs while the program stands still.
    """
    recorder.wants_eager = not keep_graphs
    try:
        with recorder.listening(debugger, first=True):
            yield
    except Quit:
        pass
    finally:
        recorder.wants_eager = False
        debugger.close()
