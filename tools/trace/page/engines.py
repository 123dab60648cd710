"""Tells the steps of several engines in one trace apart: each engine counts its own from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Record = dict[str, Any]


def with_engines(records: Iterable[Record]) -> Iterator[Record]:
    """The records; steps get a `name` that no other has, and `begins` where an engine's first; labels use these names.

    A step's note comes before the calls of that step.
    """
    engine, last = 0, 0
    for record in records:
        if record.get("kind") == "step":
            begins = engine == 0 or record["step"] <= last
            engine, last = engine + begins, record["step"]
            yield record | {"name": _named(f"step {last}", engine), "begins": begins}
        elif record.get("label", "").startswith("step "):
            yield record | {"label": _named(record["label"], engine)}
        else:
            yield record


def _named(step: str, engine: int) -> str:
    return step if engine < 2 else f"engine {engine} {step}"
