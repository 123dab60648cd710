"""What a command cannot do, how long it may be, and how a session ends a program."""

from __future__ import annotations

from bindings.errors import CutawayError


class CommandError(CutawayError):
    """A command that was mistyped or can't be done here: one line, and the session goes on."""


LONGEST = 300  # characters of a command: what is nested deeper, or has more digits, Python itself gives up on


def check_length(text: str) -> None:
    """Raises CommandError for text that is longer than a person's."""
    if len(text) > LONGEST:
        raise CommandError(f"a command of {len(text):,} characters; it may have {LONGEST} at most")


class Quit(BaseException):
    """Ends the program from inside a call, as Ctrl-C does. No `except Exception` may keep it from getting through."""
