"""The checks as a table for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tools.checks.check import Check

WIDTH = 100
STATE_WIDTH, NAME_WIDTH = 9, 22
COLOURS = {"ok": "\x1b[32m", "missing": "\x1b[33m", "broken": "\x1b[31m"}
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"

# Heading -> the areas under it (the part of an id before its first dot).
SECTIONS = {
    "Python": ("python", "packages", "package"),
    "NVIDIA GPU": ("driver", "device", "nvrtc", "cublas", "headers"),
    "CPU device": ("host_headers", "compiler", "cpu"),
    "Kept between runs": ("kernel_cache", "model_cache"),
    "Environment": ("environment",),
}


def render(checks: Sequence[Check], colour: bool) -> str:
    """The table: a heading for each section, a line or a few for each check, none wider than WIDTH."""
    parts = []
    for heading, areas in SECTIONS.items():
        rows = [check for check in checks if check.id.split(".")[0] in areas]
        if rows:
            parts.append("\n".join([paint(heading, BOLD, colour), *(row(check, colour) for check in rows)]))
    return "\n\n".join(parts)


def row(check: Check, colour: bool) -> str:
    """One check; what it means and what mends it stand below what was found."""
    state = paint(check.state, COLOURS[check.state], colour) + " " * (STATE_WIDTH - len(check.state))
    left = " " * (2 + STATE_WIDTH + NAME_WIDTH)
    name = f"{check.name:{NAME_WIDTH}}"
    if len(check.name) >= NAME_WIDTH:  # it takes a line of its own
        name = f"{check.name}\n{left}"
    lines = [
        *wrapped(check.found),
        *(paint(line, DIM, colour) for line in wrapped(check.meaning)),
        *([paint(f"fix: {check.fix}", BOLD, colour)] if check.fix else []),
    ]
    return f"  {state}{name}" + f"\n{left}".join(lines)


def wrapped(text: str) -> list[str]:
    """`text` in lines of the last column's width."""
    return textwrap.wrap(text, WIDTH - 2 - STATE_WIDTH - NAME_WIDTH, break_on_hyphens=False)


def paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{PLAIN}" if colour else text
