"""A hunt for races on the CPU device: a kernel without one gives the same bits in every order of its threads.

Orders: ascending, descending, shuffled, and greedy (one warp as far as it goes, then another). The greedy one alone
finds a missing barrier before shared memory is used again. Then once more with every access looked at: bounds, frees,
bytes that nobody wrote, and accesses to shared memory that no barrier orders, each told with block, thread and line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from bindings.device import Device
from bindings.errors import CudaError
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest.catalogue import KERNELS, cases_for
from tools.microtest.comparator import assert_same_bits
from tools.microtest.cpu_device import checked_device, revive, wrong_access
from tools.microtest.harness import Case, check
from tools.microtest.harness import run as run_case
from tools.microtest.options import ALL
from tools.microtest.products import Product
from tools.microtest.session import TestFailure, chosen, opened
from tools.progress import Progress

Schedule = tuple[str, int]


@dataclass(frozen=True)
class Found:
    """What is wrong with a case. `schedule` as `greedy:4`, or `checked` for the run with every access looked at."""

    kernel: str
    case: str
    schedule: str
    what: str


def schedules(seeds: range) -> list[Schedule]:
    """Orders of threads: the two that have no seed, and both others with each seed."""
    seeded = [(order, 2 * seed + k) for seed in seeds for k, order in ((1, "shuffled"), (2, "greedy"))]
    return [("ascending", 0), ("descending", 0), *seeded]


def spelled(schedule: Schedule) -> str:
    """As CUTAWAY_CPU_SCHEDULE takes it: `descending`, `greedy:4`."""
    order, seed = schedule
    return f"{order}:{seed}" if seed else order


def run(arguments: argparse.Namespace) -> None:
    """Hunt in one kernel or in all. Raises TestFailure when something is found."""
    everything = arguments.kernel in (None, ALL) and not arguments.file
    wanted = [op for op in KERNELS.values() if not isinstance(op, Product)] if everything else [chosen(arguments)]
    if isinstance(wanted[0], Product):
        raise UsageError("--schedules: a matrix product is cuBLAS's, no kernel of ours")
    with opened(arguments) as device, Progress(quiet=arguments.quiet) as progress:
        if device.kind != "cpu":
            raise UsageError("--schedules needs --device cpu: a GPU orders its threads as it likes (see --sanitize)")
        orders = schedules(range(arguments.schedules))
        found: list[Found] = []
        for done, op in enumerate(wanted):
            progress("hunt for races", done, len(wanted), "kernels")
            found += hunt(device, op, orders)
        progress("hunt for races", len(wanted), len(wanted), "kernels")
    _tell(arguments, wanted, orders, found)
    if found:
        raise TestFailure(f"{found[0].kernel} is wrong in {found[0].case} under the schedule {found[0].schedule}")


def _tell(arguments: argparse.Namespace, wanted: Sequence[Op], orders: Sequence[Schedule], found: list[Found]) -> None:
    names = [spelled(order) for order in orders]
    if arguments.json:
        kernels = [op.name for op in wanted]
        print(json.dumps({"kernels": kernels, "schedules": names, "found": [asdict(one) for one in found]}))
        return
    for one in found:
        print(f"WRONG {one.kernel}, {one.case}, {one.schedule}: {one.what}")
    right = len({op.name for op in wanted} - {one.kernel for one in found})
    cases = sum(len(cases_for(op)) for op in wanted)
    told = f"{right} of {len(wanted)} kernels: the same bits" if len(wanted) > 1 or not right else "the same bits"
    print(f"{told} in {len(orders)} orders of threads ({', '.join(names)}), and no access is wrong; {cases} cases")


def hunt(device: Device, op: Op, orders: Sequence[Schedule]) -> list[Found]:
    """The first case that gives other bits in another order, and the first wrong access of any case."""
    found = (_in_every_order(device, op, case, orders) for case in cases_for(op))
    return [*islice(filter(None, found), 1), *islice(_checked(op), 1)]


def _in_every_order(device: Device, op: Op, case: Case, orders: Sequence[Schedule]) -> Found | None:
    from bindings.cpu import driver

    problem, first, name = case.problem(), None, ""
    try:
        for order, seed in orders:
            driver.set_schedule(order, seed)
            name = spelled((order, seed))
            outputs = run_case(op, problem, device)
            first = first or outputs
            for output, carrier in outputs.items():
                assert_same_bits(carrier, first[output], f"{op.name}: {output}, against the ascending order")
        assert first is not None
        name = "any order"
        check(op, problem, first)
    except CudaError as error:
        revive()
        return Found(op.name, case.name, name, error.detail or str(error))
    except AssertionError as error:
        return Found(op.name, case.name, name, str(error))
    finally:
        driver.set_schedule("ascending", 0)
    return None


def _checked(op: Op) -> Iterator[Found]:
    with checked_device() as checked:
        for case in cases_for(op):
            what = wrong_access(op, case.problem(), checked)
            if what:
                yield Found(op.name, case.name, "checked", what)
