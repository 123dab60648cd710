"""Watch a run: every driver call, what the device did for it, and what the engine was at.

python -m tools.trace generate "The capital of France is" --max-tokens 3

Start at `session.py`, which listens to the run and feeds the views; `recording.py` says what a trace holds.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bindings.activity import Choice
from bindings.trace import recorder
from tools import cli
from tools.trace.session import Recorded, Session, View

TOOLS = ("generate", "bench", "microtest", "doctor")

EXAMPLES = """\
  python -m tools.trace --jsonl calls.jsonl generate "The capital of France is" --max-tokens 3
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser("trace", "Run another tool and watch every driver call that it makes.", EXAMPLES)
    parser.add_argument("tool", metavar="TOOL", choices=TOOLS, help=f"what to run: {', '.join(TOOLS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write the trace as JSON lines")
    parser.add_argument(
        "--gpu-times",
        choices=get_args(Choice),
        default="auto",
        help="where the device's times come from; auto: CUPTI if it is installed, else pairs of events (default: auto)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def body(arguments: argparse.Namespace) -> None:
    recorded = Recorded()
    views: list[View] = [recorded]
    command = shlex.join([arguments.tool, *arguments.arguments])
    session = Session(command, arguments.gpu_times, views)
    try:
        with recorder.listening(session, first=True):
            arguments.exit_code = importlib.import_module(f"tools.{arguments.tool}").main(arguments.arguments)
    finally:
        session.close()
        if arguments.jsonl is not None:
            recorded.recording.write(arguments.jsonl)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code is that of the tool that was watched, unless watching it failed."""
    ended: list[int] = []

    def run(arguments: argparse.Namespace) -> None:
        body(arguments)
        ended.append(arguments.exit_code)

    code = cli.run(make_parser(), run, argv)
    return code or ended[0]


if __name__ == "__main__":
    sys.exit(main())
