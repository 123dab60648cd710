"""Where a view writes its lines: how wide, in which colours, and never into the middle of another line."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from typing import Any, TextIO

PLAIN = "\x1b[0m"
STYLES = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "call": "\x1b[36m",
    "kernel": "\x1b[1;35m",
    "time": "\x1b[33m",
    "fold": "\x1b[34m",
    "explain": "\x1b[32m",
    "error": "\x1b[1;31m",
}
# Colours of sequences in turn: the 256-colour palette's well-told-apart ones, on light and on dark.
SEQUENCES = tuple(f"\x1b[1;38;5;{number}m" for number in (33, 208, 35, 199, 142, 99, 37, 203, 64, 172))

_STYLE = re.compile(r"\x1b\[[0-9;]*m")

_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")  # all but styles, \t and \n

COLOUR_CHOICES = ("auto", "always", "never")


def in_colour(choice: str, stream: TextIO) -> bool:
    """`auto`: on a terminal that has colours, unless NO_COLOR is set (https://no-color.org)."""
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Screen:
    """Lines of text to `stream`. `width` is its columns; None where lines may be as long as they like.

    They may in a file or a pipe, unless the environment says how wide that is ($COLUMNS, which shells do not export).
    `colour` None: as in_colour("auto") says. Writes whole lines: where a program that is watched left one unfinished,
    that is ended first (see Watched).
    """

    def __init__(self, stream: TextIO, colour: str = "auto", wide: bool = False) -> None:
        self.stream, self.colour = stream, in_colour(colour, stream)
        self._has_width = not wide and (stream.isatty() or os.environ.get("COLUMNS", "").isdecimal())

    @property
    def width(self) -> int | None:
        """Asked for anew each time, since a person may make a window wider while the debugger waits."""
        return shutil.get_terminal_size().columns if self._has_width else None

    def line(self, text: str = "") -> None:
        """One line, or several. Of a text of the trace a terminal obeys nothing: who wrote the file is not known."""
        if getattr(self.stream, "in_a_line", False):
            self.stream.write("\n")
        self.stream.write(_CONTROL.sub("?", text) + "\n")

    def paint(self, text: str, style: str) -> str:
        """`text` in the style of that name, or as it is."""
        return f"{STYLES[style]}{text}{PLAIN}" if self.colour and text else text

    def sequence(self, text: str, number: int) -> str:
        """`text` in the colour of sequence `number`."""
        return f"{SEQUENCES[number % len(SEQUENCES)]}{text}{PLAIN}" if self.colour else text


class Watched:
    """A text stream as it is, that knows whether what was written last ended its line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.in_a_line = False

    def write(self, text: str) -> int:
        """Write as the stream does."""
        if text:
            self.in_a_line = not text.endswith("\n")
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def wrapped(pieces: Sequence[str], first: int, width: int, indent: int) -> list[str]:
    """`pieces` with a blank between them, in lines of `first` columns for the first, `width - indent` for the others.

    The first line is empty where not even one piece fits. A piece that is longer than a line stands alone.
    """
    lines, current, taken, room = [], "", 0, first
    for piece in pieces:
        size = columns(piece) + (1 if current else 0)
        if taken + size <= room:
            current, taken = f"{current} {piece}" if current else piece, taken + size
        else:
            lines.append(current)
            current, taken, room = piece, columns(piece), width - indent
    return [*lines, current]


def columns(text: str) -> int:
    """How many columns a text takes: its styles take none."""
    return len(_STYLE.sub("", text)) if "\x1b" in text else len(text)
