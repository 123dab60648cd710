"""The command line: one thing to do at a time, and which other options go with it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import cli
from tools.cli import UsageError

ALL = "all"
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
DEFAULT_SEEDS = 2

EXAMPLES = """\
  python -m tools.microtest                                  # the kernels that there are
  python -m tools.microtest rmsnorm                          # is it right, how fast is it, what does it take
  python -m tools.microtest all --json                       # every kernel; exit code 1 if one is wrong
  python -m tools.microtest rmsnorm --watch                  # edit cuda_src/rmsnorm.cu, and see what comes of it
  python -m tools.microtest --file my_rmsnorm.cu             # your own, against the reference and the shipped one
  python -m tools.microtest rmsnorm --shape T=512,H=4096
  python -m tools.microtest rmsnorm --sweep H=256..8192 --plot sweep.svg
  python -m tools.microtest --roofline --plot roofline.svg
  python -m tools.microtest --ladder attention               # what each idea of cuda_src/lab/attention bought
  python -m tools.microtest rmsnorm --compare HEAD~1         # before against after, in one run
  python -m tools.microtest decode_attention --schedules 5   # races, on the CPU device
  python -m tools.microtest rmsnorm --inspect block=3,thread=17   # what one thread computed, on the CPU device
  python -m tools.microtest decode_attention --sanitize      # compute-sanitizer, on a GPU
  python -m tools.microtest rmsnorm --ptx --arch sm_90a      # needs NVRTC, and no GPU

exit code: 0 when all is right, 1 when a kernel is wrong or a measurement can't be, 2 for a wrong command line.
"""


@dataclass(frozen=True)
class Mode:
    """One thing to do: the function that does it, as `module:name`, and the options that mean something to it.

    kernel: "one" (named, or by --file), "any" (one, `all`, or none for all) or "none".
    """

    function: str
    kernel: str
    options: frozenset[str]

    def load(self) -> Callable[[argparse.Namespace], None]:
        """The function; what it needs is imported now."""
        module, name = self.function.split(":")
        found: Callable[[argparse.Namespace], None] = getattr(importlib.import_module(module), name)
        return found


def _mode(function: str, kernel: str, *options: str) -> Mode:
    return Mode(f"tools.microtest.{function}", kernel, frozenset(options))


# By the option that asks for it; "" where none does.
MODES = {
    "": _mode("examine:run", "any", "shape", "dtype", "file", "no_time", "under_sanitizer", "json", "measure_rates"),
    "watch": _mode("watch:run", "one", "shape", "dtype", "file"),
    "compare": _mode("compare:run", "one", "shape", "dtype", "json"),
    "sweep": _mode("sweep:run", "one", "shape", "dtype", "file", "json", "plot", "measure_rates"),
    "roofline": _mode("roofline:run", "any", "json", "plot", "measure_rates"),
    "ladder": _mode("ladder:run", "none", "shape", "dtype", "json", "measure_rates"),
    "schedules": _mode("schedules:run", "any", "file", "json"),
    "inspect": _mode("inspect_command:run", "one", "file", "case", "all", "json"),
    "sanitize": _mode("sanitize:run", "any", "file"),
    "ptx": _mode("code:run_ptx", "one", "shape", "file", "arch"),
    "sass": _mode("code:run_sass", "one", "shape", "file", "arch"),
}
OPTIONS = sorted({name for mode in MODES.values() for name in mode.options})


def make_parser() -> cli.Parser:
    parser = cli.Parser("microtest", "Test one kernel, time it, and hold it against the hardware's limit.", EXAMPLES)
    parser.add_argument("kernel", nargs="?", help="a kernel's name, or `all`; none: list them")
    _add_modes(parser.add_argument_group("what to do, in place of testing and timing").add_mutually_exclusive_group())
    _add_options(parser.add_argument_group("how"))
    cli.add_common_options(parser)
    return parser


def _add_modes(group: Any) -> None:
    group.add_argument(
        "--watch", action="store_true", help="test and time anew at each save of the .cu; Ctrl-C ends it"
    )
    group.add_argument(
        "--compare", metavar="BASE", help="time against BASE: a git revision, or a folder with a cuda_src"
    )
    group.add_argument(
        "--sweep", metavar="H=256..8192", help="time over sizes: powers of two between, or 256..8192+512"
    )
    group.add_argument("--roofline", action="store_true", help="every kernel's FLOP/s over its FLOPs a byte")
    group.add_argument(
        "--ladder", metavar="NAME", help="every rung of attention, rmsnorm or softmax, and what it bought"
    )
    group.add_argument(
        "--schedules",
        nargs="?",
        type=_count,
        const=DEFAULT_SEEDS,
        metavar="SEEDS",
        help=f"CPU device: every order of threads, and every access checked (default: {DEFAULT_SEEDS} seeds)",
    )
    group.add_argument(
        "--inspect",
        metavar="block=3,thread=17",
        help="CPU device: what this thread computed, line by line; block=1:2:0 gives x, y and z",
    )
    group.add_argument(
        "--sanitize", nargs="?", choices=SANITIZERS, const="memcheck", help="GPU: the cases under compute-sanitizer"
    )
    group.add_argument("--ptx", action="store_true", help="the PTX that NVRTC makes of it; needs no GPU")
    group.add_argument("--sass", action="store_true", help="the machine code, by nvdisasm or cuobjdump")


def _add_options(group: Any) -> None:
    group.add_argument("--file", type=Path, metavar="FILE.cu", help="your own kernel, with a shipped one's entry name")
    group.add_argument("--shape", metavar="T=512,H=2048", help="sizes to time at; others as in the first default")
    group.add_argument("--dtype", help="element type to time; a kernel takes what its spec says")
    group.add_argument("--case", metavar="NAME", help="with --inspect: the case to run (default: the first that fits)")
    group.add_argument("--all", action="store_true", help="with --inspect: nothing is folded")
    group.add_argument("--no-time", action="store_true", help="correctness only")
    group.add_argument("--plot", type=_plot_file, metavar="FILE", help="draw it, too: .svg, or .png with matplotlib")
    group.add_argument("--arch", metavar="sm_90a", help="what to compile for (default: the GPU's own, else sm_90a)")
    group.add_argument("--under-sanitizer", action="store_true", help=argparse.SUPPRESS)  # what --sanitize runs
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("--measure-rates", action="store_true", help="measure the device's ceiling anew")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 on")
    return int(text)


def _plot_file(text: str) -> Path:
    """A file to be: known to be possible before anything runs."""
    path = Path(text)
    if path.suffix not in (".svg", ".png") or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file name that ends in .svg or .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    return path


def mode_of(arguments: argparse.Namespace) -> str:
    """The key in MODES of what is asked for. Raises UsageError where another option does not go with it."""
    name = next((name for name in MODES if name and getattr(arguments, name) not in (None, False)), "")
    mode, told = MODES[name], f"--{name}" if name else "testing a kernel"
    for option in OPTIONS:
        if option not in mode.options and getattr(arguments, option) not in (None, False):
            raise UsageError(f"--{option.replace('_', '-')} does not go with {told}")
    _require_kernel(arguments, mode.kernel, told)
    if name == "":
        _require_one_for(arguments)
    return name


def _require_kernel(arguments: argparse.Namespace, kernel: str, told: str) -> None:
    if kernel == "none" and arguments.kernel:
        raise UsageError(f"{told} takes no kernel beside it, but {arguments.kernel!r} is given")
    if kernel == "one" and arguments.kernel == ALL:
        raise UsageError(f"{told} is for one kernel, not for all")
    if kernel == "one" and not arguments.kernel and not arguments.file:
        raise UsageError(f"{told} needs a kernel: python -m tools.microtest NAME; without NAME it lists them")
    if arguments.file and arguments.kernel == ALL:
        raise UsageError("--file is one kernel: name it, or leave the name out")


def _require_one_for(arguments: argparse.Namespace) -> None:
    """What is for one kernel's time."""
    for option in ("shape", "dtype"):
        if getattr(arguments, option) is None:
            continue
        if arguments.no_time:
            raise UsageError(f"--{option} is for timing, and --no-time leaves that out")
        if arguments.kernel == ALL or not (arguments.kernel or arguments.file):
            raise UsageError(f"--{option} is for one kernel: name it")
    listed = not (arguments.kernel or arguments.file)
    if listed and (arguments.no_time or arguments.measure_rates):
        raise UsageError("--no-time and --measure-rates need a kernel, or `all`")
