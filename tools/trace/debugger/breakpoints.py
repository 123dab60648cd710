"""Breakpoints: `kernel rmsnorm`, `layer 3`, `call cublasGemmEx if m == 1`.

A call, a kernel and an operation are met at every call of that kind; a step, a layer and a label where they are
entered, so that `continue` leads to the next one and not to the next call inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bindings.trace import Event
from engine import lab_ops, ops
from tools.trace.debugger.conditions import Condition
from tools.trace.debugger.errors import CommandError, check_length
from tools.trace.debugger.labels import SEPARATOR, has_run, number_of, path_of

USAGE = "call NAME | kernel NAME | op NAME | layer N | step N | label TEXT, and behind any of them: if CONDITION"

_API_NAME = re.compile(r"(cu|nvrtc|cublas)[A-Z*]")


@dataclass(frozen=True)
class Place:
    """What a breakpoint waits for: its kind, and the name, number or label. * in a name stands for any text."""

    kind: str
    what: str
    condition: Condition | None = None

    @property
    def is_entered(self) -> bool:
        """Whether it is a stretch of calls that is entered, and not single ones."""
        return self.kind in ("step", "layer", "label")

    def holds(self, event: Event) -> bool:
        """Whether this call is one of those meant."""
        return _HOLDS[self.kind](event, self.what) and (self.condition is None or self.condition.holds(event))

    def __str__(self) -> str:
        text = f'{self.kind} "{self.what}"' if self.kind == "label" else f"{self.kind} {self.what}"
        return text if self.condition is None else f"{text} if {self.condition.text}"


_HOLDS: dict[str, Callable[[Event, str], bool]] = {
    "call": lambda event, what: fnmatchcase(event["call"], what),
    "kernel": lambda event, what: fnmatchcase(event.get("kernel", ""), what),
    "op": lambda event, what: fnmatchcase(event.get("op", ""), what),
    "layer": lambda event, what: number_of(event, "layer") == int(what),
    "step": lambda event, what: number_of(event, "step") == int(what),
    "label": lambda event, what: has_run(path_of(event), tuple(what.split(SEPARATOR))),
}
KINDS = tuple(_HOLDS)


def parse_place(text: str) -> Place:
    """A place as it is typed. A name alone is a kernel, or a call if it begins like one of CUDA's.

    Raises CommandError with what may stand there.
    """
    check_length(text)
    where, *condition = re.split(r"\s+if\s+", text.strip(), maxsplit=1)
    kind, _, what = where.partition(" ")
    if kind and not what and kind not in KINDS:
        kind, what = ("call" if _API_NAME.match(kind) else "kernel"), kind
    what = what.strip().strip("\"'")
    if kind not in KINDS or not what:
        raise CommandError(f"cannot break at {text.strip()!r}; a place is: {USAGE}")
    if kind in ("layer", "step") and not what.isdecimal():
        raise CommandError(f"{kind} takes a number, as in break {kind} 2; not {what!r}")
    return Place(kind, what, Condition(condition[0]) if condition else None)


def kernel_names() -> list[str]:
    """The kernels of the engine, and those of the ladders."""
    return list(dict.fromkeys(op.entry for op in (*ops.ALL.values(), *lab_ops.ALL.values())))


def doubt(place: Place) -> str:
    """A line to say where the engine knows no such kernel or operation; "" where it does, or it can't be told."""
    known = {"kernel": kernel_names(), "op": [*ops.ALL, *lab_ops.ALL, "gemm", "gemm_batched"]}.get(place.kind)
    if known is None or any(fnmatchcase(name, place.what) for name in known):
        return ""
    nearest = get_close_matches(place.what, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"the engine has no {place.kind} {place.what}{hint}"


@dataclass
class Breakpoint:
    """A place with a number. `temporary`: it goes when it is met."""

    number: int
    place: Place
    temporary: bool = False
    hits: int = 0
    inside: bool = False  # whether the call before was one of those meant

    def meets(self, event: Event) -> bool:
        """Whether to stop before this call. To be asked at every call: what is entered must have been outside."""
        was_inside, self.inside = self.inside, self.place.holds(event)
        met = self.inside and not (self.place.is_entered and was_inside)
        self.hits += met
        return met

    def __str__(self) -> str:
        once = " (once)" if self.temporary else ""
        return f"{self.number}  {self.place}{once}, met {self.hits} time{'' if self.hits == 1 else 's'}"


@dataclass
class Breakpoints:
    """Those that are set, in the order of their numbers."""

    _all: dict[int, Breakpoint] = field(default_factory=dict)
    _count: int = 0

    def __iter__(self) -> Iterator[Breakpoint]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def add(self, place: Place, temporary: bool = False, at: Event | None = None) -> Breakpoint:
        """Set one. `at`: the call that the run stands at, which is not met any more."""
        self._count += 1
        added = self._all[self._count] = Breakpoint(self._count, place, temporary)
        added.inside = at is not None and place.holds(at)
        return added

    def delete(self, number: int) -> Breakpoint:
        """Take one out. Raises CommandError when there is none of that number."""
        if number not in self._all:
            raise CommandError(f"there is no breakpoint {number}")
        return self._all.pop(number)

    def met(self, event: Event) -> list[Breakpoint]:
        """Those that stop the run before this call; temporary ones are gone then."""
        met = [point for point in list(self) if point.meets(event)]
        for point in met:
            if point.temporary:
                self.delete(point.number)
        return met
