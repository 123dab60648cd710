"""A chart as a file: SVG by tools/svg.py, PNG by matplotlib where that is installed."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tools import svg
from tools.cli import UsageError
from tools.microtest.chart import Axis, Chart, Point, Series, mark_of

WIDTH, HEIGHT = 896, 520  # pixels: what a page on GitHub shows nearly unshrunk
LEFT, TOP, BOTTOM, NAMES = 92, 64, 56, 250  # margins; names of the series stand at the right
MARK_LIGHT, MARK_DARK = "#3d7ec9", "#5b9bea"
ROOF_LIGHT, ROOF_DARK = "#c2417c", "#e879ac"


def require_writable(path: Path | None) -> None:
    """Raise UsageError for a format that can't be written here, before anything is measured."""
    if path is not None and path.suffix == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f'--plot {path}: .png needs matplotlib: run pip install -e ".[plot]", or take .svg')


def save(chart: Chart, path: Path | None) -> None:
    """Draw `chart` to a file, whole or not at all; nothing without one."""
    if path is not None:
        svg.save(path, png(chart) if path.suffix == ".png" else draw(chart))


def draw(chart: Chart) -> str:
    """The SVG."""
    light = {**svg.LIGHT, "mark": MARK_LIGHT, "roofs": ROOF_LIGHT}
    dark = {**svg.DARK, "mark": MARK_DARK, "roofs": ROOF_DARK}
    lines = "".join(
        f"{media}{{.line{{stroke:{mark}}}.roof{{stroke:{roof}}}}}"
        for media, mark, roof in (
            ("@media all", MARK_LIGHT, ROOF_LIGHT),
            ("@media(prefers-color-scheme:dark)", MARK_DARK, ROOF_DARK),
        )
    )
    css = svg.style(light, dark, f".line,.roof{{fill:none;stroke-width:2}}.number{{font-size:10px;fill:#fff}}{lines}")
    body = [svg.text(20, 32, chart.title, "heading"), *_axes(chart)]
    body += [_path("roof", chart, chart.roof)] if chart.roof else []
    for number, series in enumerate(chart.series):
        body += _series(chart, series, mark_of(number))
    return svg.document(WIDTH, HEIGHT, chart.title, css, [*body, *_names(chart)])


def _at(chart: Chart, point: Point) -> Point:
    """Pixels of a point."""
    x = LEFT + chart.x.place(point[0]) * (WIDTH - LEFT - NAMES)
    return x, TOP + (1 - chart.y.place(point[1])) * (HEIGHT - TOP - BOTTOM)


def _path(kind: str, chart: Chart, points: Sequence[Point]) -> str:
    pixels = (_at(chart, point) for point in points)
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)}"/>'


def _axes(chart: Chart) -> Iterator[str]:
    right, foot = WIDTH - NAMES, HEIGHT - BOTTOM
    for tick in chart.x.ticks():
        x, _ = _at(chart, (tick, chart.y.low))
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{foot}"/>'
        yield svg.text(round(x, 1), foot + 18, chart.x.shown(tick), "muted small", "middle")
    for tick in chart.y.ticks():
        _, y = _at(chart, (chart.x.low, tick))
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield svg.text(LEFT - 8, round(y + 3.5, 1), chart.y.shown(tick), "muted small", "end")
    yield svg.text((LEFT + right) / 2, HEIGHT - 14, chart.x.label, "muted", "middle")
    yield svg.text(20, TOP - 12, chart.y.label, "muted")


def _series(chart: Chart, series: Series, mark: str) -> Iterator[str]:
    yield f"<g><title>{escape(series.name)}</title>"
    if series.line and len(series.points) > 1:
        yield _path("line", chart, series.points)
    for point in series.points:
        x, y = _at(chart, point)
        yield f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="7.5"/>'
        yield svg.text(round(x, 1), round(y + 3.5, 1), mark, "number", "middle")
    yield "</g>"


def _names(chart: Chart) -> Iterator[str]:
    """Marks and names down the right side."""
    pitch = min(18, (HEIGHT - TOP - 20) / max(len(chart.series), 1))
    for number, series in enumerate(chart.series):
        y = TOP + 8 + number * pitch
        yield svg.text(WIDTH - NAMES + 22, round(y, 1), mark_of(number), "muted", "middle")
        yield svg.text(WIDTH - NAMES + 34, round(y, 1), series.name, "text small")


def png(chart: Chart) -> bytes:
    """The same by matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, series in enumerate(chart.series):
        style = f"{'-' if series.line else ''}o"
        axes.plot(*zip(*series.points, strict=True), style, label=f"{mark_of(number)} {series.name}")
        for point in series.points:
            axes.annotate(mark_of(number), point, textcoords="offset points", xytext=(5, 3), fontsize=7)
    if chart.roof:
        axes.plot(*zip(*chart.roof, strict=True), color=ROOF_LIGHT)
    _set_axis(axes.xaxis, axes.set_xscale, axes.set_xlim, chart.x)
    _set_axis(axes.yaxis, axes.set_yscale, axes.set_ylim, chart.y)
    axes.set_title(chart.title, loc="left", fontsize=10)
    axes.set(xlabel=chart.x.label, ylabel=chart.y.label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _set_axis(drawn: object, set_scale: Callable[[str], object], set_limits: Callable[..., object], axis: Axis) -> None:
    """The limits and the written values of one of matplotlib's axes."""
    set_scale("log" if axis.log else "linear")
    set_limits(axis.low, axis.high)
    drawn.set_ticks(axis.ticks(), [axis.shown(tick) for tick in axis.ticks()])  # type: ignore[attr-defined]
    drawn.set_ticks([], minor=True)  # type: ignore[attr-defined]
