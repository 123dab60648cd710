"""A recording as columns: what the page's scripts read.

A hundred thousand calls differ in little: the same few hundred sets of arguments come back in every step. So each
distinct value is kept once (`Interned`), a call is four numbers and the number of its *body* (all its fields but times
and label), and numbers that grow are stored as differences, which compress well. Times are whole nanoseconds.
`data.js` is the reader of this.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from tools.trace.events import RESOLUTION_US
from tools.trace.page.engines import with_engines
from tools.trace.page.memory import changes
from tools.trace.page.words import sentences

Record = dict[str, Any]
Columns = dict[str, list[int]]

# Fields of a call that have a column of their own; all others make up its body.
_COLUMNS = {"kind", "n", "t_us", "host_us", "label", "activities"}


class Interned:
    """Distinct JSON values, each known by its number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Any) -> int:
        """The number of `value`: a new one the first time that it is seen."""
        number = self._numbers.setdefault(_key(value), len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def _key(value: Any) -> Hashable:
    """What tells JSON values apart. By its text, since to Python 1, 1.0 and True are equal."""
    return value if isinstance(value, str) else (repr(value),)


def pack(header: Record, records: Sequence[Record]) -> Record:
    """Everything of a trace that the page shows, but the sources of its kernels."""
    records = list(with_engines(records))
    calls = [record for record in records if record.get("kind") == "call"]
    strings, values, bodies = Interned(), Interned(), Interned()
    return {
        "header": header,
        "resolution": RESOLUTION_US,
        "calls": _calls(calls, strings, values, bodies),
        "activities": _activities(calls, strings),
        "words": _words(bodies, values, strings),
        "notes": _notes(records),
        "memory": changes(calls),
        "strings": strings.values,
        "values": values.values,
        "bodies": bodies.values,
    }


def _calls(calls: Sequence[Record], strings: Interned, values: Interned, bodies: Interned) -> Columns:
    """Row by row: number, start and host duration in ns, label, body."""

    def body(call: Record) -> int:
        return bodies.number({name: values.number(value) for name, value in call.items() if name not in _COLUMNS})

    return {
        "n": _differences(call["n"] for call in calls),
        "start": _differences(_ns(call["t_us"]) for call in calls),
        "duration": [_ns(call.get("host_us", 0.0)) for call in calls],  # none: the run ended inside this call
        "label": [strings.number(call["label"]) for call in calls],
        "body": [body(call) for call in calls],
    }


def _activities(calls: Sequence[Record], strings: Interned) -> Columns:
    """What ran on the device, by the row of its call; `of`: the number of the captured call behind it, or 0."""
    ran = [(row, activity) for row, call in enumerate(calls) for activity in call.get("activities", ())]
    return {
        "call": _differences(row for row, _ in ran),
        "what": [strings.number(activity["what"]) for _, activity in ran],
        "name": [strings.number(activity["name"]) for _, activity in ran],
        "start": _differences(_ns(activity["start_us"]) for _, activity in ran),
        "duration": [_ns(activity["end_us"]) - _ns(activity["start_us"]) for _, activity in ran],
        "stream": [strings.number(activity["stream"]) for _, activity in ran],
        "of": [activity.get("of", 0) for _, activity in ran],
        "replayed": [int(activity.get("replayed", False)) for _, activity in ran],
    }


def _words(bodies: Interned, values: Interned, strings: Interned) -> list[list[int]]:
    """For each body, the sentences that explain it."""
    return [
        [strings.number(text) for text in sentences({name: values.values[number] for name, number in body.items()})]
        for body in bodies.values
    ]


def _notes(records: Iterable[Record]) -> list[Record]:
    """The steps as changes: of a table, how many pages it keeps and those behind; of `cached`, who joined and left."""
    notes = []
    tables: dict[str, list[int]] = {}
    cached: set[int] = set()
    for note in records:
        if note.get("kind") == "step":
            if note["begins"]:  # another engine's pages are others, whatever their numbers
                tables, cached = {}, set()
            for request in [*note["released"], *note["preempted"]]:
                tables.pop(str(request), None)
            grown = {request: _grown(tables.get(request, []), pages) for request, pages in note["tables"].items()}
            now = set(note["cached"])
            changes = {"tables": grown, "cached": [sorted(now - cached), sorted(cached - now)]}
            notes.append({name: value for name, value in note.items() if name != "kind"} | changes)
            tables |= note["tables"]
            cached = now
    return notes


def _grown(before: Sequence[int], pages: Sequence[int]) -> list[Any]:
    """[how many of the first pages are as before, the pages behind them]."""
    pairs = zip(before, pages, strict=False)  # one of them goes on
    kept = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(before), len(pages)))
    return [kept, list(pages[kept:])]


def _ns(us: float) -> int:
    return round(us * 1e3)


def _differences(numbers: Iterable[int]) -> list[int]:
    """The first number, then by how much each is above the one before it."""
    result, before = [], 0
    for number in numbers:
        result.append(number - before)
        before = number
    return result
