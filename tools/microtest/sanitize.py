"""`--sanitize`: the cases under NVIDIA's compute-sanitizer, which looks at every access on the GPU itself.

It runs this tool once more, for correctness alone, in a process that it watches.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bindings import backend
from tools.cli import UsageError
from tools.microtest.nvidia_programs import find_program
from tools.microtest.options import ALL
from tools.microtest.session import TestFailure, chosen

FOUND_SOMETHING = 97  # the exit code that it is asked for, which nothing else here ends with


def run(arguments: argparse.Namespace) -> None:
    """Run compute-sanitizer. Raises TestFailure when it finds something, CutawayError where it is not installed."""
    if not (arguments.kernel in (None, ALL) and not arguments.file):
        chosen(arguments)  # an unknown name is told here, and not by the process that is watched
    if arguments.trace:
        raise UsageError("--trace does not go with --sanitize: the calls are another process's")
    if backend.select(arguments.device).kind != "cuda":
        raise UsageError("--sanitize is for a GPU; on the CPU device --schedules looks at every access")
    program = find_program("compute-sanitizer")
    watched = [sys.executable, "-m", "tools.microtest", *_again(arguments)]
    done = subprocess.run([str(program), *options(arguments.sanitize), *watched])
    if done.returncode == FOUND_SOMETHING:
        raise TestFailure(f"{arguments.sanitize} found what is printed above")
    if done.returncode:
        raise TestFailure(f"under {program.name} the cases fail (exit code {done.returncode}); see above")


def options(tool: str) -> list[str]:
    """compute-sanitizer's own. Errors of driver calls are left to the door, which expects some (cuFuncGetParamInfo)."""
    chosen_tool = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", str(FOUND_SOMETHING)]
    return [*chosen_tool, "--target-processes", "application-only"]


def _again(arguments: argparse.Namespace) -> list[str]:
    """The command line of the process under watch."""
    words = [arguments.kernel] if arguments.kernel else ([] if arguments.file else [ALL])
    words += ["--file", str(arguments.file)] if arguments.file else []
    words += ["--quiet"] if arguments.quiet else []
    return [*words, "--no-time", "--under-sanitizer", "--device", "cuda"]
