"""What a comparison found, for people and as JSON."""

from __future__ import annotations

from typing import Any

from tools.bisect.drift import Drift
from tools.bisect.place import place_of
from tools.bisect.run import Found
from tools.bisect.tally import Row, Tally
from tools.bisect.verdict import Kernels, Parting, parting, percent, spell_place, ties, verdict

HEADINGS = ("where", "operation", "output", "times", "not equal", "worst of tolerance")
DRIFT_LEGEND = (
    "apart: |a - b| / |a|, in the step where it is largest; both sides read the tokens of a",
    "two bf16 engines: what docs/accuracy.md estimates of two whose roundings have nothing in common; up to twice that"
    " was measured",
)
TIMES = HEADINGS.index("times")


def lines(found: Found, free: bool, kernels: Kernels) -> list[str]:
    """The whole report."""
    devices = [*(f"{side}: {device}" for side, device in found.devices.items()), ""] if found.devices else []
    if free:
        return [*devices, *drift_table(found.drifts), "", *ties(found.outcome.ties, free), *DRIFT_LEGEND]
    return [
        *devices,
        *table(found.tally),
        "",
        *ties(found.outcome.ties, free),
        *verdict(found.outcome, found.tally, kernels),
    ]


def table(tally: Tally) -> list[str]:
    """A line for each operation of the model."""
    cells = [HEADINGS, *((row.part, row.op, row.output, str(row.times), _unequal(row), _worst(row)) for row in tally)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(i, cell, widths[i]) for i, cell in enumerate(line)).rstrip() for line in cells]


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column == TIMES else cell.ljust(width)


def _unequal(row: Row) -> str:
    return f"{row.differing:,} of {row.elements:,}" if row.differing else f"none of {row.elements:,}"


def _worst(row: Row) -> str:
    if not row.differing or row.where is None:
        return "the same bits"
    return f"{percent(row.share)} in {spell_place(row.where)}"


def drift_table(drifts: list[Drift]) -> list[str]:
    """A line for each sublayer: how far apart the streams are, in the step where that is the most."""
    worst: dict[tuple[int | None, str, str], Drift] = {}
    for drift in drifts:
        key = drift.place.layer, drift.place.part, drift.tensor
        if key not in worst or drift.apart > worst[key].apart:
            worst[key] = drift
    found = [f"{'before':24}{'of':10}{'apart':>10}  two bf16 engines"]
    for (layer, part, tensor), drift in worst.items():
        where = part if layer is None else f"layer {layer} / {part}"
        found.append(f"{where:24}{tensor:10}{drift.apart:>10.2e}  {drift.estimate:>16.2e}")
    return found


def as_json(found: Found, free: bool) -> dict[str, Any]:
    """The same as one JSON object."""
    if free:
        drifts = [_drift_as_json(drift) for drift in found.drifts]
        return {"devices": found.devices, "drift": drifts, "ties": [vars(tie) for tie in found.outcome.ties]}
    parted = parting(found.outcome)
    return {
        "devices": found.devices,
        "agree": parted is None,
        "stopped": found.outcome.stopped,
        "operations": found.tally.operations,
        "rows": [_row_as_json(row) for row in found.tally],
        "parted": None if parted is None else _parting_as_json(parted),
        "ties": [vars(tie) for tie in found.outcome.ties],
    }


def _drift_as_json(drift: Drift) -> dict[str, Any]:
    return {**vars(drift), "place": vars(drift.place), "apart": finite(drift.apart), "estimate": finite(drift.estimate)}


def _row_as_json(row: Row) -> dict[str, Any]:
    return {**vars(row), "where": vars(row.where) if row.where else None, "share": finite(row.share)}


def _parting_as_json(parted: Parting) -> dict[str, Any]:
    operation = parted.operation
    described = {name: getattr(operation, name) for name in ("label", "op", "kernel", "source", "site")}
    place = {name: getattr(parted, name) for name in ("output", "tensor", "index", "wrong", "elements", "culprit")}
    numbers = {name: finite(getattr(parted, name)) for name in ("a", "b", "tolerance", "exact", "exact_of_a")}
    suspects = [suspect.op for suspect in parted.suspects]
    return {**vars(place_of(operation.label)), **described, **place, **numbers, "suspects": suspects}


def finite(number: float | None) -> float | str | None:
    """JSON has no infinity and no NaN: their names instead."""
    return number if number is None or abs(number) < float("inf") else str(number)
