"""How fast, and how far from the hardware's limit: times are commands, never tests.

python -m tools.bench throughput --random-weights llama-3.2-1b

Start at `measure.py`, which runs requests and notes when tokens come; `floor.py` says how fast it could be at best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from tools import cli
from tools.bench import decode, device, door, latency, load, prefill, serve_sim, throughput
from tools.bench.figures import Figures

COMMANDS = {
    "throughput": throughput,
    "latency": latency,
    "prefill": prefill,
    "decode": decode,
    "serve-sim": serve_sim,
    "load": load,
    "door": door,
    "device": device,
}

EXAMPLES = """\
  python -m tools.bench throughput --random-weights llama-3.2-1b   # the public recipe: 256 sequences, no download
  python -m tools.bench throughput --random-weights toy --num-prompts 32 --input-len 10-100 --output-len 10-100
  python -m tools.bench latency --batch-size 8 --input-len 32 --output-len 128
  python -m tools.bench prefill --random-weights llama-3.2-1b --batch-size 8 --input-len 2048
  python -m tools.bench serve-sim --random-weights llama-3.2-1b --request-rate 20
  python -m tools.bench decode                                     # the default model, one token at a time
  python -m tools.bench load --random-weights llama-3.2-1b         # from the page cache to the device
  python -m tools.bench door                                       # what checking, and tracing, every driver call costs
  python -m tools.bench device                                     # the ceiling that kernels are held against
"""


class CommandParser(cli.Parser):
    """The parser of one subcommand; argparse calls it with the words before it as `prog`."""

    def __init__(self, prog: str, description: str, **settings: Any) -> None:
        super().__init__("bench", description, "python -m tools.bench --help shows some")
        self.prog = prog


def make_parser() -> cli.Parser:
    parser = cli.Parser("bench", "Time the engine against the floor that the hardware sets.", EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.SUMMARY, description=f"Time {command.SUMMARY}.")
        command.add_options(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        cli.add_common_options(sub)
    return parser


def body(arguments: argparse.Namespace) -> None:
    figures: Figures = COMMANDS[arguments.command].bench(arguments)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):30} {shown(value)}")


def shown(value: float | int | str) -> str:
    """A number as a person reads it: three places, or three digits where it is below 1."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(make_parser(), body, argv)
