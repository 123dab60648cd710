"""Where commands come from, and where answers go.

Commands come from a script first (`-x`, `--commands`), then from a terminal, or from a pipe where there is no script.
On a terminal a line is edited, completed and remembered from one session to the next (readline); elsewhere each command
is shown behind its prompt, so that the output reads like a session.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TextIO

from bindings.cache_directory import CacheError, cache_directory
from tools.trace.kv_pages import PIPE_WIDTH
from tools.trace.terminal import Screen

HISTORY, HISTORY_LINES = "debugger_history", 1000

Completer = Callable[[str, str], list[str]]  # (the line so far, the word to complete) -> what the word could become


class Console:
    """A script's lines, then those of `stdin`; answers go to `screen`. Commands in one line are parted by ;"""

    def __init__(self, script: Iterable[str] = (), stdin: TextIO | None = None, screen: Screen | None = None) -> None:
        self._stdin, self.screen = stdin or sys.stdin, screen or Screen(sys.stdout)
        self.is_terminal = self._stdin is sys.stdin is not None and self._stdin.isatty()
        if isinstance(self._stdin, io.TextIOWrapper):
            self._stdin.reconfigure(errors="replace")  # what is no text is no command either
        # Behind a script only a person is asked: a pipe that nobody writes to would hang the run.
        rest = self._stdin if self._stdin is not None and not (script or self.is_terminal) else ()
        self._lines = chain(script, rest)
        self._pending: deque[str] = deque()
        self._history: Path | None = None

    def paint(self, text: str, style: str) -> str:
        """`text` in a style, where the terminal has colours."""
        return self.screen.paint(text, style)

    @property
    def width(self) -> int:
        """Columns to fill."""
        return self.screen.width or PIPE_WIDTH

    def write(self, text: str = "") -> None:
        """One line, or several."""
        self.screen.line(text)
        self.screen.stream.flush()

    def read(self, prompt: str) -> str | None:
        """The next command; None when there are no more. On a terminal an empty line is one, too."""
        while not self._pending:
            line = next((line for line in self._lines if is_command(line)), None)
            is_typed = line is None and self.is_terminal
            line = self._ask(prompt) if is_typed else line
            if line is None:
                return None
            self._pending.extend(part.strip() for part in line.split(";"))
            if is_typed:
                return self._pending.popleft()
        self.write(f"{self.paint(prompt, 'bold')}{self._pending[0]}")
        return self._pending.popleft()

    def _ask(self, prompt: str) -> str | None:
        try:
            return input(prompt)
        except EOFError:
            self.write()
            return None
        except KeyboardInterrupt:
            self.write()
            raise

    def offer(self, complete: Completer) -> None:
        """Editing, completion and history, where commands are typed on a terminal."""
        if not self.is_terminal:
            return
        with suppress(ImportError, CacheError):  # a Python without readline, a home that can't be written
            import readline

            self._history = cache_directory() / HISTORY
            with suppress(OSError):
                readline.read_history_file(self._history)
            readline.set_history_length(HISTORY_LINES)
            readline.set_completer_delims(" \t\n")
            readline.set_completer(completer(complete, readline.get_line_buffer))
            readline.parse_and_bind("tab: complete")

    def close(self) -> None:
        """Keep the history."""
        if self._history is not None:
            import readline

            with suppress(OSError):
                readline.write_history_file(self._history)


def completer(complete: Completer, line_buffer: Callable[[], str]) -> Callable[[str, int], str | None]:
    """What readline calls with 0, 1, 2, ... until there are no more."""

    def one(word: str, number: int) -> str | None:
        found = [name for name in complete(line_buffer(), word) if name.startswith(word)]
        return found[number] if number < len(found) else None

    return one


def is_command(line: str) -> bool:
    """Whether a line of a script is more than layout: blank lines and those that begin with # are not."""
    return bool(line.strip()) and not line.lstrip().startswith("#")
