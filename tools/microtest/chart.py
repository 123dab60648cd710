"""A chart as data, and as text in a terminal. chart_files.py draws the same as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

COLUMNS, ROWS = 64, 18
MARKS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; `shown` writes a value of it. On a logarithmic one both are above 0."""

    label: str
    low: float
    high: float
    log: bool
    shown: Callable[[float], str]

    def place(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`."""
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def value(self, place: float) -> float:
        """The value at a place: the inverse of `place`."""
        if self.log:
            return math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        return self.low + place * (self.high - self.low)

    def ticks(self) -> list[float]:
        """Values to write at the axis: powers of two or ten that lie on it, else four steps."""
        for base in (2.0, 10.0) if self.log else ():
            first = math.ceil(math.log(self.low, base) - 1e-9)
            last = math.floor(math.log(self.high, base) + 1e-9)
            if 2 <= last - first + 1 <= 9:
                return [base**power for power in range(first, last + 1)]
        return [self.value(step / 4) for step in range(5)]


@dataclass(frozen=True)
class Series:
    """Points under a name. line: they belong together, and are joined."""

    name: str
    points: Sequence[Point]
    line: bool


@dataclass(frozen=True)
class Chart:
    """roof: a limit that nothing may lie above, or nothing to draw."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    roof: Sequence[Point] = ()


def mark_of(number: int) -> str:
    """What a series is known by in the chart."""
    return MARKS[number % len(MARKS)]


def text(chart: Chart, columns: int = COLUMNS, rows: int = ROWS) -> str:
    """The chart in characters, its series under their marks below it."""
    grid = [[" "] * columns for _ in range(rows)]
    for point in _walk(chart, chart.roof, columns):
        _put(grid, chart, point, "-")
    for series in chart.series:
        for point in _walk(chart, series.points, columns) if series.line else ():
            _put(grid, chart, point, "·")
    for number, series in enumerate(chart.series):
        for point in series.points:
            _put(grid, chart, point, mark_of(number))
    return "\n".join([chart.title, "", *_framed(grid, chart), "", *_legend(chart)])


def _cell(chart: Chart, point: Point, columns: int, rows: int) -> tuple[int, int]:
    across, up = chart.x.place(point[0]), chart.y.place(point[1])
    return round((1 - up) * (rows - 1)), round(across * (columns - 1))


def _put(grid: list[list[str]], chart: Chart, point: Point, mark: str) -> None:
    """A mark at a point; where another series has one already, `*` for several."""
    row, column = _cell(chart, point, len(grid[0]), len(grid))
    if not (0 <= row < len(grid) and 0 <= column < len(grid[0])):
        return
    taken = grid[row][column]
    grid[row][column] = "*" if mark in MARKS and taken in MARKS and taken != mark else mark


def _walk(chart: Chart, points: Sequence[Point], columns: int) -> list[Point]:
    """Points so close along a line that each column of the chart has one."""
    walked = []
    for (x0, y0), (x1, y1) in pairwise(points):
        start, end = chart.x.place(x0), chart.x.place(x1)
        low, high = chart.y.place(y0), chart.y.place(y1)
        steps = max(1, math.ceil(abs(end - start) * columns))
        for step in range(steps + 1):
            share = step / steps
            walked.append((chart.x.value(start + share * (end - start)), chart.y.value(low + share * (high - low))))
    return walked


def _framed(grid: list[list[str]], chart: Chart) -> list[str]:
    """The grid between its axes."""
    labels = {_cell(chart, (chart.x.low, tick), len(grid[0]), len(grid))[0]: tick for tick in chart.y.ticks()}
    written = {row: chart.y.shown(tick) for row, tick in labels.items() if 0 <= row < len(grid)}
    width = max(map(len, [*written.values(), chart.y.label]))
    lines = [f"{chart.y.label:>{width}}"]
    for row, cells in enumerate(grid):
        edge = "┤" if row in written else "│"
        lines.append(f"{written.get(row, ''):>{width}} {edge}{''.join(cells)}".rstrip())
    return [*lines, f"{'':>{width}} └{'─' * len(grid[0])}", _below(chart, width, len(grid[0]))]


def _below(chart: Chart, width: int, columns: int) -> str:
    """The values along the lower axis, as many as there is room for, and its label."""
    line = [" "] * (columns + 12)
    free = 0
    for tick in chart.x.ticks():
        word = chart.x.shown(tick)
        start = max(0, round(chart.x.place(tick) * (columns - 1)) - len(word) // 2)
        if start >= free and start + len(word) <= len(line):
            line[start : start + len(word)] = word
            free = start + len(word) + 1
    return f"{'':>{width}}  {''.join(line).rstrip()}  {chart.x.label}"


def _legend(chart: Chart) -> list[str]:
    """Mark and name of each series; nothing to tell apart where there is only one."""
    names = [f"{mark_of(number)} {series.name}" for number, series in enumerate(chart.series)]
    if not names:
        return []
    width = max(map(len, names)) + 2
    across = max(1, (COLUMNS + 12) // width)
    rows = [names[i : i + across] for i in range(0, len(names), across)]
    return ["".join(f"{name:{width}}" for name in row).rstrip() for row in rows]
