"""One kernel, or all: right on its cases first, then timed against the ceiling."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bindings.device import Device
from bindings.errors import CudaError
from bindings.kernel import Defines
from engine.spec import Op
from tools.bench.rates import Rates
from tools.microtest import report
from tools.microtest.catalogue import KERNELS, cases_for
from tools.microtest.ceiling import Ceiling, Figure, figure, impossible
from tools.microtest.correctness import Verdict, explained, verdicts
from tools.microtest.harness import Case, built, symbols_of
from tools.microtest.options import ALL
from tools.microtest.products import Product
from tools.microtest.resources import Resources, resources
from tools.microtest.session import TestFailure, ceiling_of, chosen, opened, shape_asked
from tools.microtest.shapes import Workload, workloads
from tools.microtest.timing import Timing, launch_seconds, time_kernel
from tools.progress import Progress


@dataclass(frozen=True)
class Measured:
    """A kernel on one workload. wrong: why the measurement can't be, or ""."""

    timing: Timing
    figure: Figure
    resources: Resources | None
    wrong: str


@dataclass(frozen=True)
class Examined:
    """What is known of a kernel. left_out: cases that were not run, since one before them ended the context.

    shipped: of a kernel of somebody's own, the production kernel's times on the same workloads.
    """

    op: Op
    verdicts: list[Verdict]
    left_out: int
    measured: list[Measured]
    shipped: list[Measured]

    @property
    def passed(self) -> bool:
        """Whether every case came out right."""
        return not self.left_out and all(verdict.passed for verdict in self.verdicts)

    @property
    def problems(self) -> list[str]:
        """One line for each thing that is wrong."""
        lines = [f"{self.op.name} is wrong in {verdict.case}" for verdict in self.verdicts if not verdict.passed]
        return lines + [f"{self.op.name}, {one.wrong}" for one in (*self.measured, *self.shipped) if one.wrong]


def run(arguments: argparse.Namespace) -> None:
    """List the kernels, or examine one or all of them. Raises TestFailure when something is wrong."""
    if not arguments.kernel and not arguments.file:
        listed = {name: (op, len(cases_for(op))) for name, op in KERNELS.items()}
        print(json.dumps(report.list_data(listed)) if arguments.json else report.list_text(listed))
        return
    everything = arguments.kernel == ALL
    wanted = list(KERNELS.values()) if everything else [chosen(arguments)]
    with opened(arguments) as device:
        rates = None if arguments.no_time else ceiling_of(device, arguments)
        found = _examine_all(device, wanted, rates, arguments)
        timed = any(one.measured for one in found)
        ceiling = Ceiling(rates, launch_seconds(device)) if rates and timed else None
        if arguments.json:
            print(json.dumps(report.data(device, ceiling, found), allow_nan=False))
        elif everything:
            print(report.summary_text(found, device, ceiling))
        else:
            print(report.text(found[0], device, ceiling))
    problems = [problem for one in found for problem in one.problems]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise TestFailure(problems[0] + more)


def _examine_all(
    device: Device, wanted: list[Op], rates: Rates | None, arguments: argparse.Namespace
) -> list[Examined]:
    """Each of these; no further once a GPU's context is dead."""
    found: list[Examined] = []
    shape = shape_asked(arguments)
    with Progress(quiet=arguments.quiet or len(wanted) == 1) as progress:
        if len(wanted) > 1:  # all at once: a kernel alone has too few variants for all cores
            jobs = [job for op in wanted for job in _jobs(device, op, cases_for(op), shape)]
            device.kernels.precompile(jobs, lambda done, total: progress("compile kernels", done, total, "kernels"))
        for op in wanted:
            progress("test and time", len(found), len(wanted), "kernels")
            found.append(examine(device, op, rates, shape, arguments.under_sanitizer))
            if found[-1].left_out:
                break
        progress("test and time", len(wanted), len(wanted), "kernels")
    return found


def examine(device: Device, op: Op, rates: Rates | None, shape: Mapping[str, int], sanitized: bool = False) -> Examined:
    """Test `op`, and time it if it is right and `rates` are given. sanitized: compute-sanitizer looks on."""
    wanted = workloads(op, device.kind, shape)
    cases = built(cases_for(op))
    device.kernels.precompile(_jobs(device, op, cases, shape), lambda done, total: None)
    came = explained(device, op, cases, list(verdicts(device, op, cases, sanitized)))
    left_out = len(cases) - len(came)
    right = not left_out and all(verdict.passed for verdict in came)
    if rates is None or not right:
        return Examined(op, came, left_out, [], [])
    measured = [measure(device, op, workload, rates) for workload in wanted]
    shipped = KERNELS[op.name]
    others = [] if shipped is op else [measure(device, shipped, workload, rates) for workload in wanted]
    return Examined(op, came, left_out, measured, others)


def require_right(found: Sequence[Examined], as_json: bool) -> None:
    """Raise TestFailure at the first kernel that is wrong, with what is wrong: on stderr where stdout is for JSON."""
    for one in found:
        if not one.passed:
            print(report.correctness_text(one), file=sys.stderr if as_json else sys.stdout)
            raise TestFailure(one.problems[0])


def _jobs(device: Device, op: Op, cases: Sequence[Case], shape: Mapping[str, int]) -> list[tuple[str, Defines]]:
    """What to compile for all shapes of the cases, and for those that are timed."""
    if isinstance(op, Product):
        return []
    shapes = [symbols_of(op, case.problem()) for case in cases]
    shapes += [one.symbols for one in workloads(op, device.kind, shape)]
    return [(op.source, op.defines(symbols, device.max_dynamic_smem)) for symbols in shapes]


def measure(device: Device, op: Op, workload: Workload, rates: Rates) -> Measured:
    """Time `op` on a workload. Raises TestFailure where the kernel does not come to its end."""
    try:
        timing = time_kernel(device, op, workload)
    except CudaError as error:
        raise TestFailure(f"{op.name} passes its cases, but not {workload.name} ({workload}): {error}") from error
    found = figure(op, timing, rates)
    return Measured(timing, found, resources(device, op, workload), impossible(timing, found))
