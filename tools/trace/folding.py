"""Repeats are told once: equal layers, equal steps, a graph's kernels, the many like calls of loading and cleaning up.

Each class stands in the stream of events before a view and hands on what is to be shown, plus a `Fold` for what is not.
They work while the program runs: what may yet turn out to be a repeat is held back, at most one layer or one step.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bindings.trace import Event
from tools.trace.events import device_us, place, shape_of


@dataclass
class Fold:
    """What was not shown: `count` times the same `calls` calls, of the layers or steps `first` to `last`.

    Of like calls that stand alone `what` is "calls" and `name` the call; of a graph launched before `what` is "graph",
    `name` the graph, and `calls` its kernels. Sums over all: host and device time in
    microseconds, and the bytes that were allocated, freed or moved.
    """

    what: str  # "layers", "steps", "calls" or "graph"
    first: int = 0
    last: int = 0
    count: int = 0
    calls: int = 0
    replayed: bool = False  # kernels of a graph launch, which nobody called one by one
    name: str = ""
    result: str = "ok"
    host_us: float = 0.0
    device_us: float = 0.0
    nbytes: int = 0

    def add(self, event: Event) -> None:
        """Count one call into the sums."""
        self.host_us += event.get("host_us", 0.0)
        self.device_us += device_us(event) or 0.0
        self.nbytes += int(event.get("nbytes") or event.get("bytes") or 0)


class Sink(Protocol):
    """What folding hands on to."""

    def call(self, event: Event) -> None:
        """A call to show."""

    def fold(self, fold: Fold) -> None:
        """Calls that are told in one line."""

    def close(self) -> None:
        """There is no more."""


def signature(event: Event) -> Hashable:
    """What two calls must share to be the same: all but which layer's memory they touch, and how long they took."""
    tensors = event.get("tensors", {})
    return (
        event["kind"], event["call"], event.get("kernel"), event.get("op"), event["result"], "captured" in event,
        tuple(event.get("grid", ())), event.get("graph"), tuple(shape_of(tensor) for tensor in tensors.values()),
        _within(event["label"]),
    )  # fmt: skip


def _within(label: str) -> str:
    """The label below the layer: "attention"; and the kind of the step."""
    at = place(label)
    below = f"layer {at.layer}" if at.layer is not None else " / "
    return at.kind + label.rpartition(below)[2]


class Unit(NamedTuple):
    """A layer or a step: `around` is what it is part of."""

    around: Hashable
    number: int


class Repeats:
    """Hands on the first of equal units (layers or steps) that follow each other, and counts the rest."""

    def __init__(self, sink: Sink, what: str) -> None:
        self._sink, self._what = sink, what
        self._current: Unit | None = None
        self._reference: list[Hashable] = []  # the calls of the unit that was shown last
        self._held: list[Event] | None = None  # the calls of this unit, while they are those of the reference
        self._fold: Fold | None = None

    def unit(self, event: Event) -> Unit | None:
        """The unit that a call belongs to."""
        raise NotImplementedError

    def call(self, event: Event) -> None:
        """The next call of the program."""
        unit = self.unit(event)
        if unit != self._current:
            self._begin(unit)
        if unit is None:
            self._sink.call(event)
        elif self._held is None:
            self._reference.append(signature(event))
            self._sink.call(event)
        else:
            self._compare(event, self._held)

    def fold(self, fold: Fold) -> None:
        """A repeat that was folded before: it goes by."""
        self._begin(None)
        self._sink.fold(fold)

    def close(self) -> None:
        """Hand on what was held back."""
        self._begin(None)
        self._sink.close()

    def _begin(self, unit: Unit | None) -> None:
        """A unit ends, and perhaps another begins: right behind an equal number, it may be a repeat of that one."""
        self._end_unit()
        follows = (
            unit is not None
            and self._current is not None
            and unit.around == self._current.around
            and unit.number == self._current.number + 1
        )
        if follows:
            self._held = []
        else:
            self._tell()
            self._reference = []
        self._current = unit

    def _compare(self, event: Event, held: list[Event]) -> None:
        known = len(held) < len(self._reference) and self._reference[len(held)] == signature(event)
        if known:
            held.append(event)
            return
        if len(held) == len(self._reference) and self._may_end_before(event):
            self._end_unit()
            self._tell()
            self._sink.call(event)
            self._reference.append(signature(event))
        else:
            self._release(held)
            self.call(event)

    def _may_end_before(self, event: Event) -> bool:
        """Whether this call may come behind a whole unit, though it is nobody's."""
        return False

    def _end_unit(self) -> None:
        held, self._held = self._held, None
        if held is None or self._current is None:
            return
        if len(held) < len(self._reference):
            self._release(held)
            return
        number = self._current.number
        fold = self._fold = self._fold or Fold(self._what, first=number)
        fold.last, fold.count = number, fold.count + 1
        made = [event for event in held if event["kind"] != "replayed"]
        fold.replayed, fold.calls = not made, len(made) or len(held)
        for event in made or held:  # a graph launch has the times of its kernels
            fold.add(event)

    def _release(self, held: list[Event]) -> None:
        """This unit is no repeat: show it, and compare the next one with it."""
        self._held = None
        self._tell()
        self._reference = [signature(event) for event in held]
        for event in held:
            self._sink.call(event)

    def _tell(self) -> None:
        fold, self._fold = self._fold, None
        if fold is not None:
            self._sink.fold(fold)


class Layers(Repeats):
    """Folds equal layers of one step."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink, "layers")

    def unit(self, event: Event) -> Unit | None:
        """The layer of a call; the same layer is another one in a graph launch, or while a graph is captured."""
        at = place(event["label"])
        if at.layer is None:
            return None
        launch = event["n"] if event["kind"] == "replayed" else None
        return Unit((at.step, event.get("captured"), launch), at.layer)


class Steps(Repeats):
    """Folds equal steps. What is called between two steps belongs to the first of them."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink, "steps")

    def unit(self, event: Event) -> Unit | None:
        """The step of a call."""
        step = place(event["label"]).step
        return self._current if step is None else Unit(None, step)

    def _may_end_before(self, event: Event) -> bool:
        return place(event["label"]).step is None


class Replays:
    """Hands on the kernels of a graph's first launch; of a later one that is the same, a line."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._shown: dict[int, list[Hashable]] = {}  # by graph: the kernels of the launch that was shown last
        self._held: list[Event] = []

    def call(self, event: Event) -> None:
        """The next call of the program, or the next kernel of a launch."""
        if event["kind"] == "replayed" and (not self._held or self._held[0]["n"] == event["n"]):
            self._held.append(event)
            return
        self._tell()
        if event["kind"] == "replayed":
            self._held.append(event)
        else:
            self._sink.call(event)

    def fold(self, fold: Fold) -> None:
        """A repeat that was folded before: it goes by."""
        self._tell()
        self._sink.fold(fold)

    def close(self) -> None:
        """Tell what was held back."""
        self._tell()
        self._sink.close()

    def _tell(self) -> None:
        held, self._held = self._held, []
        if not held:
            return
        graph, kernels = held[0]["graph"], [signature(event) for event in held]
        if kernels != self._shown.get(graph):
            self._shown[graph] = kernels
            for event in held:
                self._sink.call(event)
            return
        fold = Fold("graph", count=1, calls=len(held), name=f"graph {graph}", replayed=True)
        for event in held:
            fold.add(event)
        self._sink.fold(fold)


class Likes:
    """Of the calls outside of steps that one file makes in a row, hands on the first of each kind; counts the rest."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._file = ""
        self._more: dict[Hashable, Fold] = {}

    def call(self, event: Event) -> None:
        """The next call of the program."""
        if event["label"]:
            self._tell()
            self._sink.call(event)
            return
        file = event["site"].rpartition(":")[0]
        if file != self._file:
            self._tell()
            self._file = file
        self._count(event)

    def _count(self, event: Event) -> None:
        key = signature(event)
        fold = self._more.get(key)
        if fold is None:
            self._more[key] = Fold("calls", name=event.get("kernel") or event["call"], result=event["result"])
            self._sink.call(event)
        else:
            fold.count, fold.calls = fold.count + 1, 1
            fold.add(event)

    def fold(self, fold: Fold) -> None:
        """A repeat that was folded before: it goes by."""
        self._tell()
        self._sink.fold(fold)

    def close(self) -> None:
        """Tell what was counted."""
        self._tell()
        self._sink.close()

    def _tell(self) -> None:
        for fold in self._more.values():
            if fold.count:
                self._sink.fold(fold)
        self._more, self._file = {}, ""


def folded(sink: Any) -> Steps:
    """A stream of events in which all repeats are folded, before `sink`."""
    return Steps(Replays(Layers(Likes(sink))))
