"""What is there, what is missing, and the command that fixes it.

python -m tools.doctor
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from bindings.errors import CutawayError
from tools import cli
from tools.checks import runner, table
from tools.checks.check import Check, usable_devices

EXAMPLES = """\
  python -m tools.doctor                # a table: each thing ok, missing or broken, and what fixes it
  python -m tools.doctor --json         # the same for a script

exit code: 0 when the main job (tools.generate) can run on some device, 1 when it cannot, 2 for a wrong option.

--json prints one object:
  "schema"   1
  "ok"       true when the main job can run on some device
  "devices"  the kinds of device that it can run on, the one to prefer first: "cuda", "cpu"
  "checks"   a list of objects:
    "id"       stable; "area" or "area.detail", such as "driver", "device.0", "package.numpy"
    "name"     for people
    "state"    "ok", "missing" (not there) or "broken" (there, and does not work)
    "found"    what is there        "meaning"  what follows from it, or ""
    "fix"      a command, or ""     "facts"    the same as numbers; keys depend on the id
"""

SCHEMA = 1


def make_parser() -> cli.Parser:
    parser = cli.Parser("doctor", "Look at all that Cutaway needs, and say what to do about what is wrong.", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--probe", choices=tuple(runner.PROBES), help=argparse.SUPPRESS)  # a child process's job
    return parser


class Waiting:
    """Tells on stderr what is still being looked at: a line that changes on a terminal, one line elsewhere."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self.stream, self.quiet, self.told = stream, quiet, False

    def __call__(self, areas: list[str]) -> None:
        if self.quiet or not areas:
            return
        text = f"looking at {', '.join(areas)} ..."
        if self.stream.isatty():
            print(f"\r\x1b[K{text[:78]}", end="", file=self.stream, flush=True)
        elif not self.told:
            print(text, file=self.stream, flush=True)
        self.told = True

    def clear(self) -> None:
        if self.told and self.stream.isatty():
            print("\r\x1b[K", end="", file=self.stream, flush=True)


def in_colour(stream: TextIO) -> bool:
    """Colours on a terminal that has them, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def summary(checks: Sequence[Check], devices: Sequence[str]) -> str:
    """The closing line of a run that found at least one device to run on."""
    wrong = sum(check.state == "broken" for check in checks)
    where = {"cuda": "the GPU", "cpu": "the CPU device"}[devices[0]]
    line = f'The main job runs on {where}: python -m tools.generate "Why is the sky blue?"'
    driver_and_gpu = all(check.state == "ok" for check in checks if check.id in ("driver", "device"))
    if devices[0] == "cpu" and driver_and_gpu:  # a GPU is there, and would be chosen
        line = 'There is a GPU, but not all that it needs. Until then: python -m tools.generate --device cpu "Hello"'
    return line + (f"\n{wrong} broken: see above." if wrong else "")


def doctor(arguments: argparse.Namespace) -> None:
    if arguments.probe:
        print(json.dumps([check.as_json() for check in runner.answer(arguments.probe)]))
        return
    waiting = Waiting(sys.stderr, arguments.quiet)
    try:
        checks = runner.ask_all(waiting)
    finally:
        waiting.clear()
    devices = usable_devices(checks)
    if arguments.json:
        report = {"schema": SCHEMA, "ok": bool(devices), "devices": devices}
        print(json.dumps({**report, "checks": [check.as_json() for check in checks]}, indent=1))
    else:
        print(table.render(checks, in_colour(sys.stdout)))
    if not devices:
        raise CutawayError("the main job can run on no device: see what is missing or broken above")
    if not arguments.json:
        print(f"\n{summary(checks, devices)}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(make_parser(), doctor, argv)


if __name__ == "__main__":
    sys.exit(main())
