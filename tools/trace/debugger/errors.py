"""What a command cannot do, and how a session ends a program."""

from __future__ import annotations

from bindings.errors import CutawayError


class CommandError(CutawayError):
    """A command that was mistyped or can't be done here: one line, and the session goes on."""


class Quit(BaseException):
    """Ends the program from inside a call, as Ctrl-C does. No `except Exception` may keep it from getting through."""
