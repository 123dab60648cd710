"""The debugger's options on the command line of tools.trace."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from bindings.activity import Choice
from tools import cli
from tools.trace.debugger.breakpoints import USAGE, Place, parse_place
from tools.trace.debugger.console import Console
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.session import Debugger, debugging
from tools.trace.terminal import Screen

EXAMPLES = """\
  python -m tools.trace --pause generate "Hello"                # stop before each call; help lists the commands
  python -m tools.trace --pause --break "layer 3" generate "Hello"
  python -m tools.trace --pause --break "kernel rope_kv_write" -x "out; kv 3; quit" generate "Hello"
"""


def add_options(parser: cli.Parser) -> None:
    """The options that stop the program; all but --pause ask for that."""
    group = parser.add_argument_group("stop before calls and look around")
    group.add_argument(
        "--pause", action="store_true", help="stop before each call, or at breakpoints, and take commands"
    )
    group.add_argument(
        "--break", dest="places", action="append", default=[], metavar="WHERE",
        help=f"run on to there: {USAGE}; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "-x", dest="script", action="append", default=[], metavar="COMMANDS", help="do these, parted by ;"
    )
    group.add_argument(
        "--commands", type=Path, metavar="FILE", help="do those of a file, one a line; # begins a remark"
    )
    group.add_argument("--graphs", action="store_true", help="replay graphs as usual: nothing inside can be stopped at")


def check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together, and for what they ask for in vain."""
    asked = {"--break": arguments.places, "-x": arguments.script, "--commands": arguments.commands}
    for option, value in {**asked, "--graphs": arguments.graphs}.items():
        if value and not arguments.pause:
            raise cli.UsageError(f"{option} is for --pause, which is missing")
    for option in ("summary_only", "json", "pages"):
        if arguments.pause and getattr(arguments, option):
            raise cli.UsageError(f"--pause and --{option.replace('_', '-')} both say what to show: leave out one")
    if arguments.graphs and arguments.gpu_times == "events":
        raise cli.UsageError("--gpu-times events times kernels one by one, so there are no graphs: leave out --graphs")
    parse_places(arguments.places)
    script_lines(arguments.script, arguments.commands)


def times(arguments: argparse.Namespace) -> Choice:
    """Where device times come from: a clock that might replace graphs by single launches is none for --graphs."""
    chosen: Choice = arguments.gpu_times
    return "off" if arguments.graphs and chosen == "auto" else chosen


def pausing(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Lets a debugger stop the program inside the `with`, where that is asked for. `check` must have passed."""
    if not arguments.pause:
        return nullcontext()
    script = script_lines(arguments.script, arguments.commands)
    console = Console(script, screen=Screen(sys.stdout, arguments.color))
    return debugging(Debugger(console, parse_places(arguments.places)), keep_graphs=arguments.graphs)


def parse_places(texts: list[str]) -> list[Place]:
    """The places of --break. Raises UsageError."""
    try:
        return [parse_place(text) for text in texts]
    except CommandError as error:
        raise cli.UsageError(f"--break: {error}") from None


def script_lines(commands: list[str], file: Path | None) -> list[str]:
    """The commands of -x, then those of a file. Raises UsageError for a file that can't be read."""
    lines = list(commands)
    if file is not None:
        try:
            lines += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise cli.UsageError(f"--commands {file}: {reason}") from None
    return lines
