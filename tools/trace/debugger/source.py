"""The text behind a call: the lines of Python that made it, the calls that led there, the kernel's `.cu`."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from types import FrameType

from bindings.nvrtc import KERNEL_SOURCES
from tools.trace.debugger.errors import CommandError

PROJECT = Path(__file__).resolve().parents[3]
_WATCHERS = (str(PROJECT / "tools" / "trace"), str(PROJECT / "bindings" / "trace.py"))
_TOOLS = str(PROJECT / "tools")
_DOOR = str(PROJECT / "bindings" / "calls.py")


def python_lines(site: str, around: int) -> list[tuple[int, str, bool]]:
    """(number, text, whether it is the line itself) of `around` lines on both sides of `file:line`."""
    name, _, number = site.rpartition(":")
    here = int(number)
    numbers = range(max(here - around, 1), here + around + 1)
    lines = [(line, linecache.getline(str(PROJECT / name), line), line == here) for line in numbers]
    return [(line, text.rstrip("\n"), is_here) for line, text, is_here in lines if text]


def call_stack(frame: FrameType | None) -> list[tuple[str, str, str]]:
    """(file:line, function, text) of the project's own frames, innermost first, up to the tool that uses the engine.

    Those that only watch or hand on are left out.
    """
    frames = []
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(PROJECT)) and not name.startswith((*_WATCHERS, _DOOR)):
            text = linecache.getline(name, frame.f_lineno).strip()
            frames.append((f"{Path(name).relative_to(PROJECT)}:{frame.f_lineno}", frame.f_code.co_name, text))
            if name.startswith(_TOOLS):
                break
        frame = frame.f_back
    return frames


def kernel_file(source: str) -> list[str]:
    """The lines of a `.cu` file, named relative to cuda_src or by its whole path. Raises CommandError."""
    path = KERNEL_SOURCES / source
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error


def kernel_lines(lines: list[str], entry: str) -> range:
    """The numbers of the lines, from 1, that define the kernel `entry`: from its __global__ to its closing brace."""
    text = "\n".join(lines)
    head = re.search(rf"^[^\n]*__global__[^;{{}}]*?\b{re.escape(entry)}\s*\(", text, re.MULTILINE)
    if head is None:
        raise CommandError(f"no __global__ function {entry} in this file; cu all shows all of it")
    first = text.count("\n", 0, head.start()) + 1
    last = next((number for number in range(first, len(lines) + 1) if lines[number - 1] == "}"), len(lines))
    return range(first, last + 1)
