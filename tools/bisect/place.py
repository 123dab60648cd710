"""Where in a run an operation stands, read off its label: `step 2 / decode / layer 3 / mlp`."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOADING = "loading"


@dataclass(frozen=True)
class Place:
    """step: 1, 2, …, 0 while the model is loaded. layer: None outside of layers. part: `attention`, `lm head`."""

    step: int
    layer: int | None
    part: str


def place_of(label: str) -> Place:
    """The place that a label names."""
    words = label.split(" / ") if label else [LOADING]
    return Place(_number(words, "step") or 0, _number(words, "layer"), words[-1])


def _number(words: list[str], kind: str) -> int | None:
    found = (re.fullmatch(rf"{kind} (\d+)", word) for word in words)
    return next((int(match[1]) for match in found if match), None)


def names(pattern: str, label: str, op: str) -> bool:
    """Whether `layer 3 / mlp.silu_mul` names the operation `op` under this label.

    The words before the dot must stand in the label, in this order; before it may be nothing but the operation.
    """
    wanted, _, operation = pattern.rpartition(".")
    words = iter(label.split(" / "))
    return operation == op and all(word in words for word in wanted.split(" / ") if word)
