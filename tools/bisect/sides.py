"""The sides that can be held against each other, and how a command line names one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICES = ("cpu", "cuda")

# The ways in which an engine can compute a model, as options of LLM: a new one is a line here.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "textbook": {"deterministic": False},
    "deterministic": {"deterministic": True},
}
RECORDED = "recorded:"


@dataclass(frozen=True)
class Side:
    """One side: `recording` is a file of recorded activations, or None for an engine on `device`, computing `way`."""

    name: str
    device: str = "auto"
    way: str = "textbook"
    recording: Path | None = None


def parse_side(text: str) -> Side:
    """`cpu`, `cuda:deterministic`, `textbook` (on this machine's device), `recorded:FILE.npz`.

    Raises ValueError, in one line that lists what there is.
    """
    if text.startswith(RECORDED):
        return Side(text, recording=Path(text.removeprefix(RECORDED)).expanduser())
    first, colon, second = text.partition(":")
    device, way = (first, second if colon else "textbook") if first in DEVICES else ("auto", text)
    if way == "fast":
        raise ValueError(f"{text!r}: this version has no fast path beside the textbook one; {known_sides()}")
    if way not in WAYS:
        raise ValueError(f"{text!r} is no side; {known_sides()}")
    return Side(text, device, way)


def known_sides() -> str:
    """Every form of a side, for help and errors."""
    ways = " or ".join(WAYS)
    return f"sides are {', '.join(DEVICES)}, DEVICE:WAY with {ways} for a way, a way alone, and {RECORDED}FILE.npz"
