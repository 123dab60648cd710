"""`--inspect block=3,thread=17`: what one thread of a kernel computed, printed line by line or as JSON."""

from __future__ import annotations

import argparse
import difflib
import json
import sys

from engine.spec import Op
from tools.cli import UsageError
from tools.microtest import inspection_view
from tools.microtest.harness import Case, cases_of
from tools.microtest.inspection import Dim3, inspect, parse_place, shape_of, spelled
from tools.microtest.products import Product
from tools.microtest.session import TestFailure, chosen, opened
from tools.progress import Progress
from tools.trace.terminal import in_colour


def run(arguments: argparse.Namespace) -> None:
    """Inspect one thread. Raises UsageError on a GPU or if there is no such thread, TestFailure if the launch fails."""
    block, thread = parse_place(arguments.inspect)
    op = chosen(arguments)
    if isinstance(op, Product):
        raise UsageError("--inspect: a matrix product is cuBLAS's, no kernel of ours")
    with opened(arguments) as device:
        if device.kind != "cpu":
            raise UsageError("--inspect shows what a thread of the CPU device does: add --device cpu")
        case = (
            named_case(op, arguments.case) if arguments.case else first_case(op, block, thread, device.max_dynamic_smem)
        )
        with Progress(quiet=arguments.quiet) as progress:
            progress("compile and run", 0, 1, "kernels")
            inspection = inspect(op, case, block, thread)
            progress("compile and run", 1, 1, "kernels")
    if arguments.json:
        print(json.dumps(inspection_view.as_json(inspection), allow_nan=False))
    else:
        for line in inspection_view.lines(inspection, arguments.all, in_colour("auto", sys.stdout)):
            print(line)
    if inspection.failure:
        raise TestFailure(f"{op.name} fails in {case.name}: {inspection.failure}")


def named_case(op: Op, name: str) -> Case:
    """The case of this name. Raises UsageError with the names nearest to it."""
    cases = {case.name: case for case in cases_of(op)}
    if name in cases:
        return cases[name]
    close = difflib.get_close_matches(name, cases, n=3) or [*cases][:3]
    raise UsageError(
        f"--case: {op.name} has no case {name!r}; it has {', '.join(close)} and others ({len(cases)} in all)"
    )


def first_case(op: Op, block: Dim3, thread: Dim3, smem: int) -> Case:
    """The first case whose launch has this thread of this block. Raises UsageError if none has."""
    largest: tuple[Dim3, Dim3] = ((0, 0, 0), (0, 0, 0))
    for case in cases_of(op):
        shape = shape_of(op, case.problem(), smem)
        if all(
            i < n for place, size in zip((block, thread), shape, strict=True) for i, n in zip(place, size, strict=True)
        ):
            return case
        largest = max(largest, shape)
    grid, threads = (" x ".join(map(str, size)) for size in largest)
    raise UsageError(
        f"--inspect: no case of {op.name} is launched with a block {spelled(block)} that has a thread {spelled(thread)}"
        f"; the largest has a grid of {grid} blocks of {threads} threads"
    )
