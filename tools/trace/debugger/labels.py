"""Where in the engine a call is made, read off its label: `step 12 / decode / layer 3 / attention`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from bindings.trace import Event
from tools.trace.events import place

SEPARATOR = " / "

Path = tuple[str, ...]


def path_of(event: Event) -> Path:
    """The parts of the label, outermost first; empty for a call outside of all labels."""
    return tuple(event["label"].split(SEPARATOR)) if event["label"] else ()


def number_of(event: Event, kind: str) -> int | None:
    """3 for kind "layer" inside `layer 3`; None outside of any. kind: "layer" or "step"."""
    number: int | None = getattr(place(event["label"]), kind)
    return number


def path_through(event: Event, kind: str) -> Path | None:
    """The label down to its `layer 3` for kind "layer", with that; None outside of any."""
    path, number = path_of(event), number_of(event, kind)
    return None if number is None else path[: path.index(f"{kind} {number}") + 1]


def has_run(path: Path, wanted: Path) -> bool:
    """Whether the parts `wanted`, in which * and ? stand for any text, follow each other somewhere in `path`."""
    starts = range(len(path) - len(wanted) + 1)
    return any(all(map(fnmatchcase, path[start:], wanted)) for start in starts)
