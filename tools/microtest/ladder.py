"""`--ladder attention`: every rung from the naive kernel to the production one, and what each idea bought."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

from bindings.device import Device
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest import report
from tools.microtest.catalogue import LADDERS
from tools.microtest.columns import amount, duration, percent, table
from tools.microtest.examine import Examined, Measured, examine, require_right
from tools.microtest.session import TestFailure, ceiling_of, opened, shape_asked
from tools.microtest.shapes import require_dtype, workloads
from tools.progress import Progress


@dataclass(frozen=True)
class Rung:
    """A rung on one workload. step, total: how many times as fast as the rung before it, and as the first."""

    op: Op
    measured: Measured
    step: float
    total: float


def run(arguments: argparse.Namespace) -> None:
    """Test and time every rung. Raises TestFailure where one is wrong, UsageError for a ladder that is not there."""
    if arguments.ladder not in LADDERS:
        raise UsageError(f"--ladder {arguments.ladder}: there are {', '.join(LADDERS)}")
    ladder = LADDERS[arguments.ladder]
    if arguments.dtype:
        require_dtype(ladder[0], arguments.dtype)
    shape = shape_asked(arguments)
    with opened(arguments) as device:
        workloads(ladder[0], device.kind, shape)  # a wrong --shape is told before the ceiling is measured
        rates = ceiling_of(device, arguments)
        found: list[Examined] = []
        with Progress(quiet=arguments.quiet) as progress:
            for op in ladder:
                progress("test and time", len(found), len(ladder), "rungs")
                found.append(examine(device, op, rates, shape))
            progress("test and time", len(ladder), len(ladder), "rungs")
        require_right(found, arguments.json)
        by_workload = [climb(ladder, column) for column in zip(*(one.measured for one in found), strict=True)]
        if arguments.json:
            print(json.dumps({"ladder": arguments.ladder, "device": device.name, "rungs": _data(by_workload)}))
        else:
            best = f"{amount(rates.read_bytes, 'B/s')}, {amount(rates.flops, 'FLOP/s')}"
            print("\n\n".join([f"on {device.name}: ceiling {best}", *map(_text, by_workload)]))
            _explain(device)
    problems = [problem for one in found for problem in one.problems]
    if problems:
        raise TestFailure(problems[0])


def climb(ladder: Sequence[Op], column: Sequence[Measured]) -> list[Rung]:
    """The rungs on one workload, each against the one before it and the first."""
    seconds = [one.figure.seconds for one in column]
    before = [seconds[0], *seconds]
    return [
        Rung(op, one, earlier / one.figure.seconds, seconds[0] / one.figure.seconds)
        for op, one, earlier in zip(ladder, column, before, strict=False)
    ]


def _text(rungs: Sequence[Rung]) -> str:
    workload = rungs[0].measured.timing.workload
    head = (f"{workload.name} ({workload})", "median", "this idea", "in all", "of ceiling", "what is new ")
    rows = []
    for place, rung in enumerate(rungs):
        figure = rung.measured.figure
        bought = ("", "") if place == 0 else (f"x{rung.step:.2f}", f"x{rung.total:.2f}")
        rows.append((rung.op.name, duration(figure.seconds), *bought, percent(figure.fraction), rung.op.summary))
    return table(head, rows)


def _explain(device: Device) -> None:
    if device.kind == "cpu":
        print("\nOn the CPU device a barrier or a shuffle costs more than it saves: the ideas are for a GPU.")


def _data(by_workload: Sequence[Sequence[Rung]]) -> list[dict[str, object]]:
    return [
        {"name": rung.op.name, "summary": rung.op.summary, "speedup_over_rung_before": rung.step}
        | {"speedup_over_first": rung.total}
        | report.measured_data(rung.measured)
        for rungs in by_workload
        for rung in rungs
    ]
