"""`--roofline`: what kernels reach, over how much arithmetic they do for each byte.

Under the sloping part of the roof a kernel waits for memory, under the level part for arithmetic; how far below it lies
is what there is to gain. (Williams, Waterman and Patterson, "Roofline", CACM 2009.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from bindings.device import Device
from tools.bench.rates import Rates
from tools.microtest import chart, report
from tools.microtest.catalogue import KERNELS
from tools.microtest.ceiling import Ceiling
from tools.microtest.chart import Axis, Chart, Point, Series
from tools.microtest.chart_files import require_writable, save
from tools.microtest.columns import amount
from tools.microtest.examine import Examined, examine
from tools.microtest.options import ALL
from tools.microtest.session import TestFailure, ceiling_of, chosen, opened
from tools.microtest.timing import launch_seconds
from tools.progress import Progress


def run(arguments: argparse.Namespace) -> None:
    """Test and time each kernel, draw. Raises TestFailure if one is wrong or a measurement can't be."""
    require_writable(arguments.plot)
    named = arguments.kernel not in (None, ALL)
    wanted = [chosen(arguments)] if named else list(KERNELS.values())
    with opened(arguments) as device:
        rates = ceiling_of(device, arguments)
        found: list[Examined] = []
        with Progress(quiet=arguments.quiet) as progress:
            for op in wanted:
                progress("test and time", len(found), len(wanted), "kernels")
                found.append(examine(device, op, rates, {}))
                if found[-1].left_out:
                    break
            progress("test and time", len(wanted), len(wanted), "kernels")
        drawn = _chart(device, rates, found)
        save(drawn, arguments.plot)
        if arguments.json:
            print(json.dumps(report.data(device, Ceiling(rates, launch_seconds(device)), found), allow_nan=False))
        else:
            _tell(drawn, found)
    problems = [problem for one in found for problem in one.problems]
    if problems:
        raise TestFailure(problems[0])


def _series(found: list[Examined]) -> list[Series]:
    """A kernel's workloads, joined: from few tokens to many."""
    series = []
    for one in found:
        points = [(m.figure.intensity, m.figure.flops_per_second) for m in one.measured if m.figure.flops]
        if points:
            series.append(Series(one.op.name, sorted(points), line=False))
    return series


def _chart(device: Device, rates: Rates, found: list[Examined]) -> Chart:
    series = _series(found)
    if not series:
        raise TestFailure("nothing could be timed that does arithmetic")
    points = [point for one in series for point in one.points]
    ridge = rates.flops / rates.read_bytes
    x = _axis("FLOP for each byte", [*(x for x, _ in points), ridge], lambda value: f"{value:.3g}")
    y = _axis("FLOP/s", [*(y for _, y in points), rates.flops], lambda value: amount(value, ""))
    best = f"{amount(rates.read_bytes, 'B/s')}, {amount(rates.flops, 'FLOP/s')}"
    return Chart(f"Roofline of {device.name} ({best})", x, y, series, _roof(rates, x, y))


def _axis(label: str, values: list[float], shown: Callable[[float], str]) -> Axis:
    """From the power of ten below the values to the one above."""
    low = 1.0
    while low > min(values):
        low /= 10
    while low * 10 <= min(values):
        low *= 10
    high = low
    while high < max(values):
        high *= 10
    return Axis(label, low, high, True, shown)


def _roof(rates: Rates, x: Axis, y: Axis) -> list[Point]:
    """Bytes a second times FLOPs a byte, as far as FLOPs a second; from where it enters the chart."""
    start = max(x.low, y.low / rates.read_bytes)
    return [(start, start * rates.read_bytes), (rates.flops / rates.read_bytes, rates.flops), (x.high, rates.flops)]


def _tell(drawn: Chart, found: list[Examined]) -> None:
    print(chart.text(drawn, rows=24))
    without = [one.op.name for one in found if one.measured and not any(m.figure.flops for m in one.measured)]
    if without:
        print(f"\nnot drawn, as they do no arithmetic: {', '.join(without)}")
