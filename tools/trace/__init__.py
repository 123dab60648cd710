"""Watch a run: every driver call, what the device did for it, and what the engine was at.

python -m tools.trace generate "The capital of France is" --max-tokens 3

Start at `session.py`, which listens to the run and feeds the views; `recording.py` says what a trace holds; `views.py`
opens the views that the options ask for, of which `table.py` is the one that most people see. `debugger/` stops a run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO, cast

from bindings.trace import recorder
from tools import cli
from tools.trace.debugger.options import pausing, times
from tools.trace.limits import limits_of
from tools.trace.options import EXAMPLES, check, make_parser, misplaced
from tools.trace.recording import Recording
from tools.trace.session import Session
from tools.trace.terminal import Watched
from tools.trace.views import Views

__all__ = ["EXAMPLES", "main", "make_parser"]


def body(arguments: argparse.Namespace) -> int:
    """Show a run or a recording; the exit code of the tool that ran."""
    check(arguments)
    if arguments.open is not None:
        replay(Recording.read(arguments.open), Views(arguments, sys.stdout))
        return 0
    return watch(arguments)


def replay(recording: Recording, views: Views) -> None:
    """Show a recording as if it happened now."""
    views.header(recording.header)
    for record in recording.records:
        views.call(record) if record["kind"] == "call" else views.note(record)
    views.close()


def watch(arguments: argparse.Namespace) -> int:
    """Run the tool with its own arguments, listening."""
    tool, *rest = arguments.command
    with shared_stdout(aside=arguments.json) as stdout:
        views = Views(arguments, stdout)
        session = Session(shlex.join(arguments.command), times(arguments), [views], limits_of)
        try:
            with recorder.listening(session, first=True), pausing(arguments):
                code = int(importlib.import_module(f"tools.{tool}").main(rest))
                if code == cli.USAGE and (hint := misplaced(arguments.command)):
                    print(hint, file=sys.stderr)
                return code
            return 0  # the debugger's quit has ended it, which is no failure
        finally:
            session.close()


@contextlib.contextmanager
def shared_stdout(aside: bool) -> Iterator[TextIO]:
    """stdout, for views and for the tool that is watched at once; `aside`: the tool's goes to stderr."""
    stdout = cast(TextIO, Watched(sys.stdout))
    with contextlib.redirect_stdout(sys.stderr if aside else stdout):
        yield stdout


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code is that of the tool that was watched, unless watching it failed."""
    ended: list[int] = []
    code = cli.run(make_parser(), lambda arguments: ended.append(body(arguments)), argv)
    return code or ended[0]


if __name__ == "__main__":
    sys.exit(main())
