"""Who ran in which step, as a picture: a row for each request, a column for each step. Plain SVG, no scripts.

It holds no times, so the same workload gives the same picture on any machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tools import svg
from tools.bench.timeline import Cell, Row, Timeline

if TYPE_CHECKING:
    from engine import LLM

MAX_ROWS, MAX_STEPS = 48, 240  # beyond it cells are too small to be seen: the first ones are drawn

NARROWEST, WIDTH = 760, 896  # pixels: room for the legend; what a page on GitHub shows nearly unshrunk
LEFT, RIGHT, TOP = 108, 18, 112  # margins of the chart
LARGEST_CELL = 11.0  # pixels a step: the same in two pictures of up to 70 steps, so that they can be compared
PITCH, BAR = 20, 14  # a row, and what is drawn of it
STRIP = 44  # height of the lower chart: sequences of each step
DIGIT = 4.8  # pixels of a digit in a cell

LEGEND = {  # a text, and the pixels that it takes
    "prefill": ("prefill (with its number of tokens)", 206),
    "decode": ("decode (one token)", 122),
    "waiting": ("waits", 36),
    "preempted": ("preempted: its pages were taken", 196),
}

LIGHT = {
    **svg.LIGHT, "count": "#3a2500",
    "prefill": "#e8a33d", "decode": "#3d7ec9", "waiting": "#c6ccd6", "preempted": "#c2417c",
}  # fmt: skip
DARK = {
    **svg.DARK, "count": "#2b1b00",
    "prefill": "#e5a544", "decode": "#5b9bea", "waiting": "#465162", "preempted": "#e879ac",
}  # fmt: skip


def timeline_for(arguments: argparse.Namespace) -> Timeline | None:
    """What takes down the run, if --picture asks for it."""
    return Timeline(arguments.max_num_seqs, MAX_ROWS, MAX_STEPS) if arguments.picture else None


def save(arguments: argparse.Namespace, llm: LLM, timeline: Timeline | None) -> None:
    """Write the picture, whole or not at all."""
    if timeline is None:
        return
    path: Path = arguments.picture
    svg.save(path, draw(timeline, arguments.batching, llm.engine_config.max_num_batched_tokens))


def draw(timeline: Timeline, batching: str, token_budget: int) -> str:
    """The SVG."""
    steps, rows = len(timeline.running), list(timeline.rows.values())
    cell = min(LARGEST_CELL, (WIDTH - LEFT - RIGHT) / steps)
    width, bottom = LEFT + steps * cell + RIGHT, TOP + len(rows) * PITCH
    width, height = max(round(width), NARROWEST), bottom + STRIP + 66
    what = f"{batching.capitalize()} batching: who runs in which step"
    body = [
        svg.text(20, 30, what, "heading"),
        svg.text(20, 50, summary(timeline, token_budget), "muted"),
        *_legend({cell.kind for row in rows for cell in row.cells}),
        *_grid(steps, cell, bottom),
        *(line for y, row in enumerate(rows) for line in _row(row, y + 1, TOP + y * PITCH, cell)),
        *_strip(timeline, cell, bottom + 14),
    ]
    digits = ".count{font-size:8px;letter-spacing:-0.3px}"
    return svg.document(width, height, what, svg.style(LIGHT, DARK, digits), body)


def summary(timeline: Timeline, token_budget: int) -> str:
    """What ran, in one line; where only the beginning is drawn, it says so."""
    requests, steps, seats = timeline.num_requests, timeline.num_steps, timeline.num_seats
    share = timeline.seats_taken / (steps * seats)
    told = f"{requests:,} requests, {seats} seats, at most {token_budget:,} tokens a step: {steps:,} steps"
    if requests > len(timeline.rows) or steps > len(timeline.running):
        return f"{told}; here the first {len(timeline.rows)} requests in the first {len(timeline.running)} steps"
    return f"{told}, {share:.0%} of the seats taken"


def _legend(kinds: set[str]) -> Iterator[str]:
    x = 20.0
    yield '<g id="legend">'
    for kind, (text, length) in LEGEND.items():
        if kind in kinds:
            thin = kind in ("waiting", "preempted")
            yield svg.rect(kind, x, 70 if thin else 66, 16 if thin else 10, 3 if thin else 11)
            x += 23 if thin else 16
            yield svg.text(x, 76, text, "muted")
            x += length + 22
    yield "</g>"


def _grid(steps: int, cell: float, bottom: int) -> Iterator[str]:
    """Lines through both charts at every tenth step or so, with their numbers beneath; what the axes are."""
    every = next(n for n in (5, 10, 20, 50) if n * cell >= 36 or n == 50)
    end = bottom + 14 + STRIP
    for step in range(0, steps + 1, every):
        x = LEFT + step * cell
        yield f'<path class="grid" d="M{x:.4g} {TOP - 2}V{end}"/>'
        yield svg.text(x, end + 16, str(step), "muted small", "middle")
    yield svg.text(LEFT + steps * cell / 2, end + 34, "step", "muted", "middle")
    yield svg.text(14, TOP - 7, "request", "muted small")
    yield svg.text(LEFT - 10, TOP - 7, "in + out", "muted small", "end")


def _row(row: Row, number: int, y: float, cell: float) -> Iterator[str]:
    yield f'<g id="request-{number}">'
    yield svg.text(42, y + 11, str(number), "text", "end")
    yield svg.text(LEFT - 10, y + 11, f"{row.prompt_len} + {row.output_len}", "muted small", "end")
    for item in row.cells:
        yield from _cell(item, LEFT + item.step * cell, y, cell)
    yield "</g>"


def _cell(item: Cell, x: float, y: float, cell: float) -> Iterator[str]:
    if item.tokens == 0:
        yield svg.rect(item.kind, x, y + BAR / 2 - 1.5, cell, 3)  # neighbours make a line
        return
    gap = 1.0 if cell > 4 else 0.0
    yield svg.rect(item.kind, x, y, cell - gap, BAR, f' data-tokens="{item.tokens}"')
    if item.kind == "prefill" and len(str(item.tokens)) * DIGIT <= cell - gap:
        yield svg.text(x + (cell - gap) / 2, y + 10.2, str(item.tokens), "count", "middle")


def _strip(timeline: Timeline, cell: float, y: float) -> Iterator[str]:
    """The lower chart: how many sequences each step has, decodes beneath, prefills on top of them."""
    unit, gap = STRIP / timeline.num_seats, 1.0 if cell > 4 else 0.0
    yield '<g id="sequences">'
    yield svg.text(LEFT - 10, y + 8, str(timeline.num_seats), "muted small", "end")
    yield svg.text(LEFT - 10, y + STRIP, "0", "muted small", "end")
    yield svg.text(14, y + STRIP / 2 + 4, "seats taken", "muted small")
    yield f'<path class="grid" d="M{LEFT} {y}h{len(timeline.running) * cell:.4g}"/>'
    for step, (decodes, prefills) in enumerate(timeline.running):
        x, foot = LEFT + step * cell, y + STRIP
        for kind, count in (("decode", decodes), ("prefill", prefills)):
            if count:
                foot -= count * unit
                yield svg.rect(kind, x, foot, cell - gap, count * unit)
    yield "</g>"
