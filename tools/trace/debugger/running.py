"""Commands that let the program run: to the next call, to the end of a layer, to its own end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.trace.debugger.command import Command, count, nothing_more
from tools.trace.debugger.errors import CommandError, Quit
from tools.trace.debugger.goals import After, AnotherStep, Goal, Never, Outside, Returned, Until
from tools.trace.debugger.labels import Path, number_of, path_of, path_through

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger


def go_next(session: Debugger, rest: str) -> Goal:
    return After(count("next", rest or "1"))


def out(session: Debugger, rest: str) -> Goal | None:
    """A second time the call has happened already, and its outputs are shown again."""
    nothing_more("out", rest)
    if session.has_returned:
        session.show_outputs()
        return None
    return Returned()


def step(session: Debugger, rest: str) -> Goal:
    nothing_more("step", rest)
    return AnotherStep(number_of(session.event, "step"))


def go_on(session: Debugger, rest: str) -> Goal:
    nothing_more("continue", rest)
    return Never()


def finish(session: Debugger, rest: str) -> Goal:
    return Outside(stretch(session, rest))


def stretch(session: Debugger, what: str) -> Path:
    """The labels that `finish` leaves: down to the layer or the step, or all of them."""
    if what in ("layer", "step"):
        path = path_through(session.event, what)
        if path is None:
            raise CommandError(f"this call belongs to no {what}: its label is {session.event['label']!r}")
        return path
    if what not in ("", "label"):
        raise CommandError(f"finish takes layer, step or label, not {what!r}")
    if not path_of(session.event):
        raise CommandError("this call has no label to finish; go on with next, step or continue")
    return path_of(session.event)


def until(session: Debugger, rest: str) -> Goal:
    number = count("until", rest)
    if number <= session.event["n"]:
        raise CommandError(f"call {number} has been made already; this is call {session.event['n']}")
    return Until(number)


def leave(session: Debugger, rest: str) -> Goal:
    nothing_more("quit", rest)
    raise Quit


COMMANDS = (
    Command("next [N]", "go to the next call (Enter does it too), or the N-th from here", go_next, ("n",)),
    Command("out", "make this call, wait for the device, show what it wrote, and stay", out, ("o", "after")),
    Command("finish [layer|step|label]", "go to where this layer, step or innermost label ends", finish, ("f",)),
    Command("step", "go to the first call of the engine's next step", step, ("s",)),
    Command("until N", "go to call N", until, ("u",)),
    Command("continue", "go to the next breakpoint, or to the end", go_on, ("c",)),
    Command("quit", "end the program here, and free what it holds", leave, ("q", "exit")),
)
