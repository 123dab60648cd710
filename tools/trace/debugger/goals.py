"""Where a run that goes on stops next, breakpoints aside. A goal is asked before each call whether it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bindings.trace import Event
from tools.trace.debugger.labels import Path, number_of, path_of


class Goal(Protocol):
    """What a command that lets the program run waits for."""

    def reached(self, event: Event) -> bool:
        """Whether to stop before this call."""


@dataclass
class After:
    """The `count`-th call from here on."""

    count: int

    def reached(self, event: Event) -> bool:
        self.count -= 1
        return self.count <= 0


@dataclass(frozen=True)
class AnotherStep:
    """The first call of a step of the engine other than `step` (None: of any step)."""

    step: int | None

    def reached(self, event: Event) -> bool:
        return number_of(event, "step") not in (None, self.step)


@dataclass(frozen=True)
class Until:
    """Call `number`, or the first one after it."""

    number: int

    def reached(self, event: Event) -> bool:
        return bool(event["n"] >= self.number)


@dataclass(frozen=True)
class Outside:
    """The first call that is not made inside these labels."""

    path: Path

    def reached(self, event: Event) -> bool:
        return path_of(event)[: len(self.path)] != self.path


@dataclass(frozen=True)
class Returned:
    """The end of the call that the run stands before: that is seen when it has returned."""

    def reached(self, event: Event) -> bool:
        return False


@dataclass(frozen=True)
class Never:
    """Only a breakpoint stops the run."""

    def reached(self, event: Event) -> bool:
        return False
