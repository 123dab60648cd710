"""Which calls the table shows: by API call, layer, step, kernel. All that are given must fit."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bindings.trace import Event
from tools.cli import UsageError
from tools.trace.events import place
from tools.trace.explanations import CALLS

Ranges = list[tuple[int, int]]

_GLOB = re.compile(r"[*?\[]")
_SHOWN = 12  # of what there was to match


def globs(text: str, option: str) -> list[str]:
    """A comma list of names and globs. Raises UsageError for what can't be a name."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(r"[\w*?.\[\]!-]+", name):
            raise UsageError(f"{option}: {name!r} is no name; give names or globs with commas between, as in 'cuMem*'")
    return names


def api_calls(text: str) -> list[str]:
    """--calls: names of API calls that this project makes, or globs that fit some."""
    names = globs(text, "--calls")
    for name in names:
        if not fnmatch.filter(CALLS, name):
            near = difflib.get_close_matches(name, CALLS, 1)
            remedy = f"did you mean {near[0]}?" if near else "for example cuLaunchKernel, cublasGemmEx or 'cuMem*'"
            raise UsageError(f"--calls: no call of this engine is named {name!r}; {remedy}")
    return names


def ranges(text: str, option: str) -> Ranges:
    """ "3", "0-3" or "0,4-6" as inclusive ranges. Raises UsageError for all else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(f"{option}: {part!r} is no number and no range; give 3, 0-3 or 0,4-6")
        found.append((first, last))
    return found


def among(value: int | None, wanted: Ranges) -> bool:
    """Whether a number lies in one of the ranges."""
    return value is not None and any(first <= value <= last for first, last in wanted)


def _fits(names: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in wanted)


def kernel_names(event: Event) -> list[str]:
    """What --kernel may call the work of a call: the kernel's entry and its operation; "gemm" for a product."""
    return [event[key] for key in ("kernel", "op") if key in event]


def _calls_of(event: Event) -> list[str]:
    """The kernels of a graph launch are nobody's call but its own."""
    return ["cuGraphLaunch" if event["kind"] == "replayed" else event["call"]]


@dataclass
class Criterion:
    """One filter: which events fit, what it is called, and what of an event it looks at."""

    option: str
    fits: Callable[[Event], bool]
    looks_at: Callable[[Event], Sequence[object]]
    matched: bool = False
    there: dict[str, None] = field(default_factory=dict)  # what there was to match, in order

    def check(self, event: Event) -> bool:
        """Whether the event fits; remembers what it saw."""
        for value in self.looks_at(event):
            self.there[str(value)] = None
        fits = self.fits(event)
        self.matched |= fits
        return fits


class Filter:
    """Options of the command line as a predicate: `matches(event)`. Raises UsageError for values that mean nothing."""

    def __init__(
        self, calls: str | None = None, layer: str | None = None, step: str | None = None, kernel: str | None = None
    ) -> None:
        self.criteria: list[Criterion] = []
        if calls is not None:
            names = api_calls(calls)
            self._add(f"--calls {calls}", lambda event: _fits(_calls_of(event), names), _calls_of)
        if layer is not None:
            layers = ranges(layer, "--layer")
            self._add(f"--layer {layer}", lambda event: among(place(event["label"]).layer, layers), _layer)
        if step is not None:
            steps = ranges(step, "--step")
            self._add(f"--step {step}", lambda event: among(place(event["label"]).step, steps), _step)
        if kernel is not None:
            kernels = globs(kernel, "--kernel")
            self._add(f"--kernel {kernel}", lambda event: _fits(kernel_names(event), kernels), kernel_names)
        self._matched = False

    def _add(self, option: str, fits: Callable[[Event], bool], looks_at: Callable[[Event], Sequence[object]]) -> None:
        self.criteria.append(Criterion(option, fits, looks_at))

    def matches(self, event: Event) -> bool:
        """Whether all filters fit."""
        answers = [criterion.check(event) for criterion in self.criteria]
        fits = all(answers)
        self._matched |= fits
        return fits

    def complaint(self) -> list[str]:
        """What to tell at the end when nothing matched; empty when something did, or nothing was asked for."""
        if self._matched or not self.criteria:
            return []
        alone = [criterion for criterion in self.criteria if not criterion.matched]
        if not alone:
            return [f"no call fits {' and '.join(criterion.option for criterion in self.criteria)} at once"]
        return [f"{one.option} matched nothing; there were: {_listed(list(one.there))}" for one in alone]


def _layer(event: Event) -> list[object]:
    layer = place(event["label"]).layer
    return [] if layer is None else [layer]


def _step(event: Event) -> list[object]:
    step = place(event["label"]).step
    return [] if step is None else [step]


def _listed(values: list[str]) -> str:
    """The values, with runs of numbers as ranges; not all of very many."""
    if not values:
        return "none"
    if all(value.isdecimal() for value in values):
        return _as_ranges(sorted(map(int, values)))
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more


def _as_ranges(numbers: list[int]) -> str:
    runs: Ranges = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs[:_SHOWN])
