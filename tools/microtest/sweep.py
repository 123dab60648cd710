"""`--sweep H=256..8192`: one kernel over sizes."""

from __future__ import annotations

import argparse
import json
import re

from bindings.device import Device
from engine.spec import Op
from tools.bench.rates import Rates
from tools.cli import UsageError
from tools.microtest import chart, report
from tools.microtest.chart import Axis, Chart, Series
from tools.microtest.chart_files import require_writable, save
from tools.microtest.columns import amount, duration, percent, table
from tools.microtest.examine import Measured, examine, measure, require_right
from tools.microtest.session import TestFailure, ceiling_of, chosen, opened, shape_asked
from tools.microtest.shapes import workloads
from tools.progress import Progress

MOST_POINTS = 64
_RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)\.\.(\d+)(?:\+(\d+))?")


def sizes_of(text: str) -> tuple[str, list[int]]:
    """The symbol and its sizes: `H=256..8192` in powers of two, both ends included; `H=256..8192+512` in steps.

    Raises UsageError.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(f"--sweep {text!r}: expected SYMBOL=LOW..HIGH, or SYMBOL=LOW..HIGH+STEP")
    symbol, low, high, step = match[1], int(match[2]), int(match[3]), int(match[4] or 0)
    if not 0 < low < high or match[4] == "0":
        raise UsageError(f"--sweep {text!r}: the first size must be above 0 and below the last, and a step above 0")
    sizes = list(range(low, high + 1, step)) if step else _doubling(low, high)
    if len(sizes) > MOST_POINTS:
        raise UsageError(
            f"--sweep {text!r}: {len(sizes)} sizes, and at most {MOST_POINTS} are timed: take a larger step"
        )
    return symbol, sizes


def _doubling(low: int, high: int) -> list[int]:
    """`low`, the powers of two between, `high`."""
    between = [1 << power for power in range(high.bit_length()) if low < 1 << power < high]
    return [low, *between, high]


def run(arguments: argparse.Namespace) -> None:
    """Test the kernel, time it at each size, draw. Raises TestFailure if it is wrong or a measurement can't be."""
    require_writable(arguments.plot)
    op = chosen(arguments)
    symbol, sizes = sizes_of(arguments.sweep)
    given = shape_asked(arguments)
    if symbol in given:
        raise UsageError(f"--sweep and --shape both say what {symbol} is")
    with opened(arguments) as device:
        points = [workloads(op, device.kind, {**given, symbol: size})[0] for size in sizes]
        rates = ceiling_of(device, arguments)
        require_right([examine(device, op, None, {})], arguments.json)
        measured = []
        with Progress(quiet=arguments.quiet) as progress:
            for point in points:
                progress("time", len(measured), len(points), "sizes")
                measured.append(measure(device, op, point, rates))
            progress("time", len(points), len(points), "sizes")
        drawn = _chart(op, device, symbol, measured, rates)
        save(drawn, arguments.plot)
        _tell(arguments, op, device, symbol, measured, drawn)
    wrong = [one.wrong for one in measured if one.wrong]
    if wrong:
        raise TestFailure(f"{op.name}, {wrong[0]}")


def _chart(op: Op, device: Device, symbol: str, measured: list[Measured], rates: Rates) -> Chart:
    """The fraction of the ceiling over the sizes, up to the ceiling."""
    points = [(float(one.timing.workload.symbols[symbol]), 100 * one.figure.fraction) for one in measured]
    highest = max(share for _, share in points)
    x = Axis(symbol, points[0][0], points[-1][0], log=points[-1][0] >= 8 * points[0][0], shown=lambda v: f"{v:.0f}")
    y = Axis("% of the ceiling", 0.0, next(top for top in (1, 10, 50, 100, highest) if top >= highest), False, _short)
    best = f"{amount(rates.read_bytes, 'B/s')}, {amount(rates.flops, 'FLOP/s')}"
    return Chart(f"{op.name} over {symbol}, on {device.name} ({best})", x, y, [Series(op.name, points, line=True)])


def _short(value: float) -> str:
    return f"{value:.3g}"


def _tell(
    arguments: argparse.Namespace, op: Op, device: Device, symbol: str, measured: list[Measured], drawn: Chart
) -> None:
    if arguments.json:
        times = [report.measured_data(one) for one in measured]
        print(json.dumps({"kernel": op.name, "symbol": symbol, "device": device.name, "times": times}))
        return
    rows = []
    for one in measured:
        figure = one.figure
        rates = (amount(figure.bytes_per_second, "B/s"), amount(figure.flops_per_second, "FLOP/s"))
        size = one.timing.workload.symbols[symbol]
        rows.append((str(size), duration(figure.seconds), *rates, percent(figure.fraction), figure.bound))
    print(chart.text(drawn))
    print()
    others = {name: size for name, size in measured[0].timing.workload.symbols.items() if name != symbol}
    print("with " + " ".join(f"{name}={size}" for name, size in others.items()))
    print(table((symbol, "median", "moves", "computes", "of ceiling", "limit "), rows))
