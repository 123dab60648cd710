"""Commands that set, list and delete breakpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.trace.debugger.breakpoints import USAGE, doubt, parse_place
from tools.trace.debugger.command import Command, count, nothing_more
from tools.trace.debugger.errors import CommandError

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger


def set_break(session: Debugger, rest: str) -> None:
    if not rest:
        raise CommandError(f"break where? {USAGE}")
    add(session, rest, temporary=False)


def set_once(session: Debugger, rest: str) -> None:
    if not rest:
        raise CommandError(f"tbreak where? {USAGE}")
    add(session, rest, temporary=True)


def add(session: Debugger, text: str, temporary: bool) -> None:
    """Set a breakpoint, and say so; also where the name is one that the engine does not know."""
    place = parse_place(text)
    point = session.breakpoints.add(place, temporary, at=session.event)
    once = ", once" if temporary else ""
    session.write(f"breakpoint {point.number}: {place}{once}")
    if doubt(place):
        session.write(f"  {doubt(place)}")


def show(session: Debugger, rest: str) -> None:
    nothing_more("breakpoints", rest)
    for point in session.breakpoints:
        session.write(f"  {point}")
    if not len(session.breakpoints):
        session.write("no breakpoints; set one as in: break kernel rmsnorm")


def delete(session: Debugger, rest: str) -> None:
    if rest == "all":
        for point in list(session.breakpoints):
            session.breakpoints.delete(point.number)
        return
    for word in rest.split() or [""]:
        point = session.breakpoints.delete(count("delete", word))
        session.write(f"deleted breakpoint {point.number}: {point.place}")


COMMANDS = (
    Command("break WHERE [if CONDITION]", f"stop at: {USAGE.partition(',')[0]}", set_break, ("b",)),
    Command("tbreak WHERE [if CONDITION]", "the same, once", set_once, ("tb",)),
    Command("breakpoints", "list them, with how often each was met", show, ("bl",)),
    Command("delete N | all", "delete breakpoint N, or all of them", delete, ("d",)),
)
