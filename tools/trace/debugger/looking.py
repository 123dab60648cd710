"""Commands that look into device memory: values, figures, bytes, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tools.trace.debugger.command import Command
from tools.trace.debugger.device_memory import Region
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.figures import Figures, figures_of, histogram
from tools.trace.debugger.selection import Axis, Index, parse_selection

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger

DUMPED = 256  # bytes that hexdump shows unless told otherwise
DIFFERENCES = 8  # that diff lists


def selected(session: Debugger, command: str, text: str) -> tuple[Region, Index]:
    """The memory and the index that a person named."""
    if not text:
        here = ", ".join(session.operands) or "the name of a buffer, see memory"
        raise CommandError(f"{command} what? here: {here}")
    wanted = parse_selection(text)
    return session.memory.find(wanted, session.operands), wanted.index


def peek(session: Debugger, rest: str) -> None:
    region, index = selected(session, "peek", rest)
    values = session.memory.read(region, index)
    session.looked_at[region, str(index)] = values
    session.write(f"{region}{spelled(index)}" + (f": {list(values.shape)}" if index and values.shape else ""))
    session.write(
        np.array2string(values, max_line_width=session.console.width, precision=5, threshold=200, edgeitems=4)
    )


def spelled(index: Index) -> str:
    """An index as it was typed, more or less: [0, :8]."""
    return f"[{', '.join(map(_axis, index))}]" if index else ""


def _axis(item: Axis) -> str:
    if isinstance(item, slice):
        ends = [item.start, item.stop] + ([item.step] if item.step is not None else [])
        return ":".join("" if end is None else str(end) for end in ends)
    return "..." if item is ... else str(item)


def stat(session: Debugger, rest: str) -> None:
    region, index = selected(session, "stat", rest)
    figures, lines = figures_at(session, region, index)
    session.write(f"{region}{spelled(index)}: {figures.count:,} values")
    session.write(f"  {figures.line()}")
    for line in lines:
        session.write(f"  {line}")


def figures_at(session: Debugger, region: Region, index: Index = ()) -> tuple[Figures, list[str]]:
    """Figures and histogram of what an index picks; without one of any size, in parts."""
    if index:
        values = session.memory.read(region, index)
        return _figures([values])
    figures = figures_of(lambda: map(session.memory.read, region.parts()))
    return figures, histogram(lambda: map(session.memory.read, region.parts()), figures)


def _figures(parts: list[NDArray]) -> tuple[Figures, list[str]]:
    figures = figures_of(lambda: parts)
    return figures, histogram(lambda: parts, figures)


def hexdump(session: Debugger, rest: str) -> None:
    region, index = selected(session, "hexdump", rest)
    narrow, left = region.narrowed(index)
    if any(item != slice(None) for item in left):
        raise CommandError("hexdump shows one run of bytes: index leading axes alone, as in [3] or [2:4]")
    wanted = min(narrow.nbytes, DUMPED)
    head = next(narrow.parts())
    data = session.memory.read_bits(head.rows(0, -(-wanted // head.dtype.itemsize))).tobytes()[:wanted]
    session.write(f"{narrow} at {narrow.address:#x}, {wanted} of {narrow.nbytes:,} bytes")
    for start in range(0, wanted, 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        session.write(f"  +{start:04x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {text}")


def diff(session: Debugger, rest: str) -> None:
    region, index = selected(session, "diff", rest)
    values, key = session.memory.read(region, index), (region, str(index))
    before, session.looked_at[key] = session.looked_at.get(key), values
    name = f"{region}{spelled(index)}"
    if before is None:
        session.write(f"{name}: kept; the next diff says what has changed since")
        return
    for line in differences(before, values):
        session.write(line if line.startswith(" ") else f"{name}: {line}")


def differences(before: NDArray, after: NDArray) -> list[str]:
    """How many values are others than before, and the first of them. NaN is like NaN."""
    same = (before == after) | ((before != before) & (after != after))
    changed = np.argwhere(~np.atleast_1d(same))
    if not len(changed):
        return [f"all {after.size:,} values are as they were"]
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(after.astype(np.float64) - before.astype(np.float64)))
    lines = [f"{len(changed):,} of {after.size:,} values have changed, by {largest:.4g} at most"]
    for place in map(tuple, changed[:DIFFERENCES].tolist()):
        old, new = np.atleast_1d(before)[place], np.atleast_1d(after)[place]
        lines.append(f"  {list(place)}: {old:.6g} -> {new:.6g}")
    return lines


COMMANDS = (
    Command("peek NAME[INDEX]", "values: peek q[0, 0, :8], peek activations.qkv[-1]", peek, ("p",)),
    Command("stat NAME[INDEX]", "range, mean, spread, zeros, NaN, Inf and a histogram", stat),
    Command("diff NAME[INDEX]", "what has changed since it was last looked at by peek or diff", diff),
    Command("hexdump NAME[INDEX]", f"the bytes, {DUMPED} at most", hexdump, ("x",)),
)
