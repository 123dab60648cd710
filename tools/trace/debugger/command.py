"""What a command is: its names, the line that `help` has of it, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.goals import Goal

if TYPE_CHECKING:
    from tools.trace.debugger.session import Debugger

# Given the session and what was typed behind the name. What lets the program run gives the goal at which it stops.
Run = Callable[["Debugger", str], "Goal | None"]


@dataclass(frozen=True)
class Command:
    """`usage` begins with the name; `aliases` are other names. `run` raises CommandError for what can't be done."""

    usage: str
    summary: str
    run: Run
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in `help`."""
        return self.usage.split()[0]


def nothing_more(command: str, rest: str) -> None:
    """For a command without arguments."""
    if rest:
        raise CommandError(f"{command} takes nothing behind it, not {rest!r}")


def count(command: str, text: str, least: int = 1) -> int:
    """A number behind a command."""
    if not text.isdecimal() or int(text) < least:
        raise CommandError(f"{command} takes a number from {least} on, not {text!r}")
    return int(text)
