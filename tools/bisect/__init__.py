"""Where do two ways of running a model part? Both run in lockstep, and the first operation beyond tolerance is named.

python -m tools.bisect --a cpu --b cuda "The capital of France is"

Start at `lockstep.py`, which compares operation by operation; `bounds.py` says how far apart two right results may be.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tools import cli
from tools.bench.options import count
from tools.bisect.sides import Side, known_sides, parse_side
from tools.generate import check_prompt

MAX_TOKENS = 3
PROMPT = "The capital of France is"

DESCRIPTION = """\
Run two sides in lockstep and name the first operation whose results part beyond tolerance. After each operation side b
goes on with side a's values, so that each starts from the same inputs. Exit code: 0 they agree, 1 they part."""

EXAMPLES = """\
  python -m tools.bisect --a cpu --b cuda "The capital of France is"       # CPU device against GPU
  python -m tools.bisect --a textbook --b deterministic                    # two ways on this machine's device
  python -m tools.bisect --a cpu --b cpu --b-kernels edited_cuda_src       # a copy of cuda_src with an edit
  python -m tools.bisect --a cpu --b cuda --random-weights llama-3.2-1b "one" "two"
  python -m tools.bisect --a cpu --b cuda --free                           # how errors grow when nobody corrects them
  python -m tools.bisect --a recorded:activations.npz --b cpu --model ~/models/tiny
  python -m tools.bisect --a cpu --b cuda --stop-after "layer 0 / attention.rope_kv_write"
"""


def side(text: str) -> Side:
    try:
        return parse_side(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def folder(text: str) -> Path:
    return Path(text).expanduser().resolve()


def make_parser() -> cli.Parser:
    parser = cli.Parser("bisect", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help=f"continued as it is; several run as one batch (default: {PROMPT!r})",
    )
    parser.add_argument(
        "--a", type=side, required=True, metavar="SIDE", help=f"the side to compare with; {known_sides()}"
    )
    parser.add_argument("--b", type=side, required=True, metavar="SIDE", help="the side that is compared, an engine")
    for name in "ab":
        parser.add_argument(
            f"--{name}-kernels",
            type=folder,
            metavar="DIR",
            help=f"side {name} takes its .cu files from DIR, a copy of cuda_src",
        )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a folder, a .gguf file or a name on the hub (default: the default model)")
    model.add_argument(
        "--random-weights",
        metavar="SHAPE",
        help="no download: llama-3.2-1b, llama-3.1-8b, smollm2-135m, toy; a prompt's bytes are its tokens then",
    )
    parser.add_argument(
        "--max-tokens",
        type=count,
        metavar="N",
        help=f"tokens to choose, each behind the first by a decode step (default: {MAX_TOKENS}, or all of a recording)",
    )
    parser.add_argument(
        "--free",
        action="store_true",
        help="let side b go on with its own values: how errors grow by layer, and no verdict",
    )
    parser.add_argument(
        "--stop-after", metavar="LABEL.OP", help='compare no further than this, as in "layer 3 / mlp.silu_mul"'
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, a side's too")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together, and for a prompt that is none."""
    for number, prompt in enumerate(arguments.prompts, start=1):
        check_prompt(number, prompt)
    for name in ("a_kernels", "b_kernels"):
        chosen = getattr(arguments, name)
        if chosen is not None and not (chosen / "include").is_dir():
            option = f"--{name.replace('_', '-')}"
            raise cli.UsageError(f"{option} {chosen}: expected a copy of cuda_src, with its include folder")
    if arguments.b.recording:
        raise cli.UsageError("--b is the side that runs: give the recording as --a")
    if arguments.a.recording is None:
        return
    if not arguments.a.recording.is_file():
        raise cli.UsageError(f"--a {arguments.a.name}: there is no file {str(arguments.a.recording)!r}")
    refused = {
        "--a-kernels": arguments.a_kernels,
        "--random-weights": arguments.random_weights,
        "a prompt": arguments.prompts,
    }
    for name, value in refused.items():
        if value:
            raise cli.UsageError(
                f"a recording brings its own text and belongs to stored weights: it does not go with {name}"
            )


def body(arguments: argparse.Namespace) -> bool:
    """Compare and print; whether the sides agree."""
    from tools.bisect import report
    from tools.bisect.run import compare_sides

    check(arguments)
    found = compare_sides(arguments)
    if arguments.json:
        print(json.dumps(report.as_json(found, arguments.free)))
        return found.outcome.parted is None
    for line in report.lines(found, arguments.free, {"a": arguments.a_kernels, "b": arguments.b_kernels}):
        print(line)
    return found.outcome.parted is None


def main(argv: Sequence[str] | None = None) -> int:
    agree: list[bool] = []
    code = cli.run(make_parser(), lambda arguments: agree.append(body(arguments)), argv)
    return cli.ERROR if agree == [False] else code
