"""An inspected thread as text to read, and as JSON.

As text: each line of the source that the thread came to, and below it what it did there. Calls are indented. Two things
are folded unless everything is asked for: the middle turns of a loop, and functions of cuda_src/include without a
barrier or a shuffle, of which only arguments and result are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tools.microtest.inspection import Inspection, spelled
from tools.microtest.inspection_tree import Barrier, Branch, Call, Exchange, Line, Loop, Turn, Value
from tools.microtest.inspection_values import jsonable
from tools.microtest.source_files import HEADERS

MOST_TURNS = 4  # of a loop that is shown whole
MOST_ELEMENTS = 16  # of an array that is shown whole
GUTTER = " " * 7  # in which a line's number stands
STATEMENT_LINES = 4  # of a statement that goes over several lines
_COMMENT = re.compile(r"\s*//.*")


@dataclass(frozen=True)
class Style:
    """What is shown, and in which colours."""

    everything: bool
    colour: bool

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def name(self, text: str) -> str:
        return self.paint(text, "36")

    def faint(self, text: str) -> str:
        return self.paint(text, "2")

    def strong(self, text: str) -> str:
        return self.paint(text, "1")


def lines(inspection: Inspection, everything: bool = False, colour: bool = False) -> Iterator[str]:
    """The text, line by line. `everything`: nothing is folded."""
    style = Style(everything, colour)
    yield style.strong(_title(inspection))
    for call in inspection.calls:
        yield ""
        yield from _call(call, style, "")
    if not inspection.calls:
        yield "the thread had done nothing yet"
    if inspection.was_cut:
        yield "... the thread said more than is kept; what came after is missing"
    if inspection.failure:
        yield f"the launch failed here: {inspection.failure}"


def _title(i: Inspection) -> str:
    warp = f" (lane {i.thread[0] % 32} of warp {i.thread[0] // 32})"
    grid, block = (" x ".join(map(str, size)) for size in (i.grid, i.block_size))
    where = f"block {spelled(i.block)}, thread {spelled(i.thread)}{warp}"
    return f"{i.op.name} on the case {i.case}: {where} of a grid of {grid} blocks of {block} threads"


# ---- Text -----------------------------------------------------------------------------------------------------------


def _call(call: Call, style: Style, indent: str) -> Iterator[str]:
    arguments = ", ".join(f"{style.name(p.name)} = {shown(p.value, style.everything)}" for p in call.parameters)
    head = f"{GUTTER}{indent}{style.strong(call.name)}({arguments})"
    if _is_helper(call) and not style.everything:
        yield f"{head} returns {shown(call.result.value)}" if call.result else head
        return
    yield f"{head}  {style.faint(f'{Path(call.file).name}:{call.line}')}"
    yield from _body(call.body, style, indent + "  ")
    if call.result is not None:
        yield f"{GUTTER}{indent}{style.strong(call.name)} returns {_value(call.result, style)}"


def _is_helper(call: Call) -> bool:
    return Path(call.file).is_relative_to(HEADERS) and not _meets_others(call)


def _meets_others(call: Call) -> bool:
    """Whether a barrier or a warp collective is in it, or in what it calls."""

    def found(part: Any) -> bool:
        if isinstance(part, Loop):
            return any(found(line) for turn in part.turns for line in turn.body)
        if isinstance(part, Line):
            return any(map(found, part.parts))
        return isinstance(part, (Barrier, Exchange)) or (isinstance(part, Call) and _meets_others(part))

    return any(map(found, call.body))


def _body(body: list[Line], style: Style, indent: str, loop: int = 0) -> Iterator[str]:
    """The lines of a function or of a turn; of the line `loop` the loop itself has shown the text."""
    for line in body:
        if line.line != loop:
            text = f"{line.line:>{len(GUTTER) - 2}}  {indent}{_statement(line.file, line.line)}"
            yield text if line.parts else style.faint(text)
        for part in line.parts:
            yield from _part(part, style, indent + "  ")


def _part(part: Any, style: Style, indent: str) -> Iterator[str]:
    if isinstance(part, Call):
        yield from _call(part, style, indent)
    elif isinstance(part, Loop):
        yield from _loop(part, style, indent)
    else:
        yield f"{GUTTER}{indent}{_leaf(part, style)}"


def _leaf(part: Value | Branch | Barrier | Exchange, style: Style) -> str:
    if isinstance(part, Value):
        return f"{style.name(part.name)} = {_value(part, style)}"
    if isinstance(part, Branch):
        return f"{part.condition} is {style.strong('true' if part.taken else 'false')}"
    if isinstance(part, Barrier):
        return style.paint(f"---- {part.name}: waits for the others ----", "33")
    return f"{style.paint(part.name, '33')} gives {shown(part.given)}, gets {shown(part.got)}"


def _loop(loop: Loop, style: Style, indent: str) -> Iterator[str]:
    count = len(loop.turns)
    folded = 0 if style.everything or count <= MOST_TURNS else count - 3
    for number, turn in enumerate(loop.turns):
        if folded and number == 2:
            yield style.faint(f"{GUTTER}{indent}... {folded} turns more (--all shows them)")
        if folded and 2 <= number < 2 + folded:
            continue
        variables = ", ".join(f"{style.name(v.name)} = {shown(v.value)}" for v in turn.values)
        head = f"{GUTTER}{indent}{style.strong(f'turn {number + 1} of {count}')}{': ' if variables else ''}{variables}"
        leaves = _leaves(loop, turn)
        yield "; ".join((head, *(_leaf(part, style) for part in leaves)))
        if not leaves:
            yield from _body(turn.body, style, indent + "  ", loop.line)


def _leaves(loop: Loop, turn: Turn) -> list[Any]:
    """What a turn did if that is all on the loop's own line and has no depth: then the turn is one line too."""
    parts = [part for line in turn.body for part in line.parts]
    flat = all(line.line == loop.line for line in turn.body) and not any(isinstance(p, (Call, Loop)) for p in parts)
    return parts if flat else []


def _value(value: Value, style: Style) -> str:
    place = style.faint(f"  in {value.place}") if value.place else ""
    return f"{shown(value.value, style.everything)}{place}"


def shown(value: Any, everything: bool = False) -> str:
    """A value for a person. A structure of one field is shown as that field."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        if len(value) == 1:
            return shown(next(iter(value.values())), everything)
        return f"{{{', '.join(f'{name}: {shown(part, everything)}' for name, part in value.items())}}}"
    if not isinstance(value, list):
        return str(value)
    kept = value if everything else value[:MOST_ELEMENTS]
    rest = f", ... {len(value) - len(kept)} more" if len(kept) < len(value) else ""
    return f"[{', '.join(shown(element, everything) for element in kept)}{rest}]"


@cache
def _source(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _statement(file: str, line: int) -> str:
    """The statement that begins on a line, in one line; without comments where it goes over several."""
    source = _source(file)
    if not 1 <= line <= len(source):
        return "?"
    parts = [source[line - 1].strip()]
    for following in source[line : line + STATEMENT_LINES - 1]:
        text = _COMMENT.sub("", " ".join(parts))
        if text.endswith((";", "{", "}")) or following.strip().startswith("#"):
            break
        parts = [text, following.strip()]
    return " ".join(parts)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything, as a JSON-able dictionary."""
    return {
        "op": inspection.op.name,
        "case": inspection.case,
        "grid": list(inspection.grid),
        "block_size": list(inspection.block_size),
        "block": list(inspection.block),
        "thread": list(inspection.thread),
        "was_cut": inspection.was_cut,
        "failure": inspection.failure,
        "calls": [_json(call) for call in inspection.calls],
    }


def _json(part: Any) -> dict[str, Any]:
    if isinstance(part, Value):
        return {"kind": "value", "name": part.name, "value": jsonable(part.value), "place": part.place}
    if isinstance(part, Branch):
        return {"kind": "branch", "condition": part.condition, "taken": part.taken}
    if isinstance(part, Barrier):
        return {"kind": "barrier", "name": part.name}
    if isinstance(part, Exchange):
        return {"kind": "exchange", "name": part.name, "given": jsonable(part.given), "got": jsonable(part.got)}
    place = {"file": part.file, "line": part.line}
    if isinstance(part, Line):
        return {"kind": "line", **place, "parts": [_json(one) for one in part.parts]}
    if isinstance(part, Loop):
        return {"kind": "loop", **place, "turns": [_json_turn(turn) for turn in part.turns]}
    return {
        "kind": "call",
        "name": part.name,
        **place,
        "parameters": [_json(parameter) for parameter in part.parameters],
        "body": [_json(line) for line in part.body],
        "result": _json(part.result) if part.result else None,
    }


def _json_turn(turn: Turn) -> dict[str, Any]:
    return {"values": [_json(value) for value in turn.values], "body": [_json(line) for line in turn.body]}
