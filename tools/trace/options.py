"""The command line of tools.trace: which views to open, and which options mean nothing together."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bindings.activity import Choice
from tools import cli
from tools.trace.debugger import options as pause
from tools.trace.terminal import COLOUR_CHOICES

TOOLS = ("generate", "bench", "microtest", "doctor")

EXAMPLES = (
    """\
  python -m tools.trace generate "The capital of France is" --max-tokens 3      # each call as it is made, then sums
  python -m tools.trace --explain generate --raw "The capital of France is" --max-tokens 2
  python -m tools.trace --calls cublasGemmEx --layer 0 --explain generate "Hello" --max-tokens 2
  python -m tools.trace --kernel 'rmsnorm,*attention' --step 2 --layer 0-1 generate "Hello" --max-tokens 2
  python -m tools.trace --summary-only generate "Hello" --max-tokens 8          # kernels a token, and the longest
  python -m tools.trace --pages generate "Name a fruit." "Name a colour."       # the pages of the KV cache
  python -m tools.trace --perfetto trace.json --jsonl calls.jsonl --summary-only generate "Hello" --max-tokens 8
  python -m tools.trace --html trace.html --summary-only generate "Hello" --max-tokens 8      # open it in a browser
  python -m tools.trace --open calls.jsonl --kernel argmax                      # look again, without running
  python -m tools.trace --open calls.jsonl --json | jq '.steps'
"""
    + pause.EXAMPLES
)

# What stands in place of the table, and why options that choose how the table looks mean nothing then.
INSTEAD = {
    "summary_only": "the sums are of the whole run",
    "json": "the sums are of the whole run",
    "pages": "pages are not calls",
    "pause": "calls are shown one by one",
}
TABLE_ONLY = ("calls", "layer", "step", "kernel", "no_fold", "explain", "wide")
FILES = ("jsonl", "html", "perfetto")
PAGES_TOO = ("step", "no_fold", "wide")


def make_parser() -> cli.Parser:
    """All options; those of the tool that is watched stand behind its name and are its own."""
    parser = cli.Parser("trace", "Run another tool and watch every driver call that it makes.", EXAMPLES)
    parser.usage = (
        "python -m tools.trace [options] TOOL [its own options]\n       python -m tools.trace [options] --open FILE"
    )
    tools = ", ".join(TOOLS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="TOOL ...", help=f"what to run: one of {tools}")
    parser.add_argument("--open", type=Path, metavar="FILE", help="look at a trace that --jsonl wrote, and run nothing")
    parser.add_argument(
        "--gpu-times",
        choices=get_args(Choice),
        default="auto",
        help="where the device's times come from; auto: CUPTI if it is installed, else pairs of events (default: auto)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_table(parser)
    _add_others(parser)
    pause.add_options(parser)
    return parser


def _add_table(parser: cli.Parser) -> None:
    group = parser.add_argument_group("the table of calls (filters choose what it lists; all that are given must fit)")
    group.add_argument("--calls", metavar="NAMES", help="API calls: names or globs, as in cublasGemmEx,'cuMem*'")
    group.add_argument("--kernel", metavar="NAMES", help="kernels or operations: names or globs; gemm: products")
    group.add_argument("--layer", metavar="N", help="layers: 0, 0-3 or 0,4-6")
    group.add_argument("--step", metavar="N", help="steps of the engine: 1, 2-4 or 1,3")
    group.add_argument("--explain", action="store_true", help="say what each kind of call does, and why it is made")
    group.add_argument("--no-fold", action="store_true", help="list equal layers and steps, too")
    group.add_argument("--wide", action="store_true", help="one line a call, however long, as in a pipe")
    group.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="auto: on a terminal (default: auto)")


def _add_others(parser: cli.Parser) -> None:
    group = parser.add_argument_group("in place of the table")
    instead = group.add_mutually_exclusive_group()
    instead.add_argument("--summary-only", action="store_true", help="only the sums at the end, with all their rows")
    instead.add_argument(
        "--json", action="store_true", help="the sums as one JSON object; TOOL's output goes to stderr"
    )
    instead.add_argument("--pages", action="store_true", help="who was in each step, and the pages of the KV cache")
    group = parser.add_argument_group("files, beside all that")
    group.add_argument("--jsonl", type=Path, metavar="FILE", help="the whole trace as JSON lines, for --open")
    group.add_argument("--html", type=Path, metavar="FILE", help="one page that shows it all, for any browser")
    group.add_argument("--perfetto", type=Path, metavar="FILE", help="for ui.perfetto.dev or chrome://tracing")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense together. Raises UsageError."""
    if arguments.open is not None:
        _check_open(arguments)
    elif not arguments.command:
        raise cli.UsageError(f"nothing to watch: name one of {', '.join(TOOLS)}, or --open a trace (see --help)")
    elif arguments.command[0] not in TOOLS:
        raise cli.UsageError(f"there is no tool {arguments.command[0]!r} to watch; there are {', '.join(TOOLS)}")
    _check_table(arguments)
    pause.check(arguments)
    for name in FILES:
        _check_file(_option(name), getattr(arguments, name))


def misplaced(command: Sequence[str]) -> str:
    """A line on options of the trace behind the tool's name, where the tool has refused them; "" where there are none.

    Options that tools have as well are not told: `--json` may be either's.
    """
    tool, *rest = command
    own = set(re.findall(r"^  (--?[\w-]+)", make_parser().format_help(), re.MULTILINE)) - {"-h", "--json", "--debug"}
    found = ", ".join(word for word in rest if word.partition("=")[0] in own)
    return f"cutaway trace: {found} is for trace: options of trace stand before {tool!r}" if found else ""


def _check_open(arguments: argparse.Namespace) -> None:
    if arguments.command:
        raise cli.UsageError(f"--open runs nothing, but {arguments.command[0]!r} stands behind it: leave one out")
    if arguments.pause:
        raise cli.UsageError("--pause is for a run; what --open reads has run already")
    if arguments.gpu_times != "auto":
        raise cli.UsageError("--gpu-times is for a run; the trace that --open reads has the times that it has")
    if arguments.jsonl is not None:
        raise cli.UsageError("--jsonl is for a run; what --open reads is such a file already")


def _check_table(arguments: argparse.Namespace) -> None:
    instead = next((name for name in INSTEAD if getattr(arguments, name)), None)
    if instead is None:
        return
    for name in TABLE_ONLY:
        if getattr(arguments, name) not in (None, False) and not (instead == "pages" and name in PAGES_TOO):
            option, other = _option(name), _option(instead)
            raise cli.UsageError(f"{option} is for the table, but {INSTEAD[instead]}: leave out {option} or {other}")


def _check_file(option: str, path: Path | None) -> None:
    """A run is not lost because its trace can't be written at its end."""
    if path is not None and not path.parent.is_dir():
        raise cli.UsageError(f"{option}: there is no folder {path.parent}")
    if path is not None and path.is_dir():
        raise cli.UsageError(f"{option}: {path} is a folder; name a file")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
