"""What was found out about a kernel: as text for a person, and as data for a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bindings.device import Device
from engine.spec import Op
from tools.microtest.ceiling import Ceiling
from tools.microtest.columns import amount, duration, number, percent, table
from tools.microtest.correctness import Verdict, Worst
from tools.microtest.resources import Resources

if TYPE_CHECKING:
    from tools.microtest.examine import Examined, Measured

Listed = Mapping[str, tuple[Op, int]]
Data = dict[str, Any]

SHOWN = 3  # failed cases that are told in full; --json has all


def list_text(listed: Listed) -> str:
    """Every kernel with its number of cases and what it does."""
    rows = [(name, str(cases), op.summary) for name, (op, cases) in listed.items()]
    width = max(len(name) for name in listed)
    lines = [f"{name:{width}}  {cases:>3} cases  {summary}" for name, cases, summary in rows]
    return "\n".join([*lines, "", "python -m tools.microtest NAME tests and times one; --help shows what else."])


def list_data(listed: Listed) -> Data:
    """The same for a script."""
    return {
        "kernels": [
            {"name": name, "summary": op.summary, "source": op.source or None, "cases": cases}
            for name, (op, cases) in listed.items()
        ]
    }


def text(found: Examined, device: Device, ceiling: Ceiling | None) -> str:
    """All that is known of one kernel."""
    where = found.op.source or "cuBLAS"
    parts = [f"{found.op.name}: {found.op.summary}", f"{where}, on {device.name}", "", correctness_text(found)]
    if ceiling:
        parts += ["", times_text(found, ceiling), "", *_resources_lines(found.measured, device)]
    return "\n".join(parts)


def correctness_text(found: Examined) -> str:
    """How many cases are right, the worst element of each output, and the failures."""
    total = len(found.verdicts) + found.left_out
    right = sum(verdict.passed for verdict in found.verdicts)
    lines = [f"right in {right} of {total} cases" + (f", {found.left_out} not run" if found.left_out else "")]
    worst = worst_by_output([verdict for verdict in found.verdicts if verdict.passed])
    if worst:
        head = ("worst element of", "case", "at", "got", "expected", "error", "of its bound", "ulp")
        lines.append(table(head, [_worst_row(case, one) for case, one in worst], words=3, indent="  "))
    return "\n".join(lines + failure_lines(found.verdicts))


def failure_lines(verdicts: Sequence[Verdict], name: str = "") -> list[str]:
    """What is wrong with the cases that failed, in full with the first few."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    lines = []
    for verdict in failed[:SHOWN]:
        lines.append(f"  WRONG {name}{verdict.case}: {verdict.failure}")
        lines += explanation_lines(verdict)
    more = len(failed) - SHOWN
    return lines + ([f"  ... and in {more} more cases"] if more > 0 else [])


def explanation_lines(verdict: Verdict) -> list[str]:
    """Cause and owner of a failure, where they are known."""
    owner = "no thread wrote it" if verdict.unwritten else verdict.owner
    told = {"cause": verdict.cause, "owner": owner}
    return [f"    {name}: {what}" for name, what in told.items() if what]


def worst_by_output(verdicts: Sequence[Verdict]) -> list[tuple[str, Worst]]:
    """Of each output the element that uses up most of its bound, with the name of its case."""
    worst: dict[str, tuple[str, Worst]] = {}
    for verdict in verdicts:
        for one in verdict.worst:
            if one.output not in worst or _badness(one) > _badness(worst[one.output][1]):
                worst[one.output] = (verdict.case, one)
    return list(worst.values())


def _badness(one: Worst) -> tuple[float, float]:
    return one.share, one.error


def _worst_row(case: str, one: Worst) -> tuple[str, ...]:
    ulps = "" if one.ulps is None else f"{one.ulps:.3g}"
    exact = "exact" if one.bound == 0 and one.error == 0 else percent(one.share)
    index = str(list(one.index))
    return (one.output, case, index, number(one.got), number(one.expected), f"{one.error:.3g}", exact, ulps)


def times_text(found: Examined, ceiling: Ceiling) -> str:
    """Times of each workload; a learner's own kernel beside the shipped one."""
    rows = []
    for place, one in enumerate(found.measured):
        rows.append(_time_row(one) + ((_against(one, found.shipped[place]),) if found.shipped else ()))
    head = ("workload", "sizes", "median", "moves", "computes", "of ceiling", "limit") + (
        ("shipped",) if found.shipped else ()
    )
    lines = [table(head, rows, words=2), f"ceiling: {ceiling} (measured on this device)", buffers_text(found)]
    return "\n".join(lines + [f"IMPOSSIBLE {one.wrong}" for one in (*found.measured, *found.shipped) if one.wrong])


def _time_row(one: Measured) -> tuple[str, ...]:
    figure = one.figure
    arithmetic = amount(figure.flops_per_second, "FLOP/s") if figure.flops else "-"
    rates = (amount(figure.bytes_per_second, "B/s"), arithmetic, percent(figure.fraction), figure.bound)
    workload = one.timing.workload
    return (workload.name, str(workload), duration(figure.seconds), *rates)


def _against(mine: Measured, shipped: Measured) -> str:
    """The shipped kernel's time, and how mine compares."""
    ratio = shipped.figure.seconds / mine.figure.seconds
    told = f"mine has {percent(ratio)} of its speed"
    return f"{duration(shipped.figure.seconds)} ({told})"


def buffers_text(found: Examined) -> str:
    """Whether the inputs came from memory or from the cache."""
    first = found.measured[0].timing
    if first.cold is None:
        return "this device tells no cache size: inputs that fit into the host's caches come from there"
    cache = amount(first.cache_bytes, "B")
    warm = [one.timing.workload.name for one in found.measured if not one.timing.cold]
    told = ", ".join(f"{one.timing.copies}" for one in found.measured)
    lines = f"inputs come from memory, not from the {cache} of L2: launches go over copies of them ({told})"
    return lines if not warm else f"{lines}; except {', '.join(warm)}, whose copies all fit into it"


def _resources_lines(measured: Sequence[Measured], device: Device) -> list[str]:
    """What each specialisation takes of a multiprocessor: one line for all workloads that share it."""
    by_resources: dict[Resources, list[str]] = {}
    for one in measured:
        if one.resources:
            by_resources.setdefault(one.resources, []).append(one.timing.workload.name)
    if device.kind == "cpu" and by_resources:
        return ["registers, spills and occupancy: do not apply to the CPU device, which runs a block a worker thread"]
    several = len(by_resources) > 1
    return [
        (f"{', '.join(names)}: " if several else "") + resources_text(taken) for taken, names in by_resources.items()
    ]


def resources_text(taken: Resources) -> str:
    """A kernel's registers, shared memory, spills and occupancy in one line."""
    smem = f"{taken.static_smem + taken.dynamic_smem:,} B of shared memory"
    spills = f"{taken.local_bytes} B of spills" if taken.local_bytes else "no spills"
    line = f"{taken.threads} threads a block, {taken.registers} registers, {smem}, {spills}"
    if taken.occupancy is None:
        return line
    fit = taken.occupancy
    return (
        f"{line}; occupancy {percent(fit.fraction)}: {fit.blocks} blocks a multiprocessor, limited by "
        + " and ".join(fit.limited_by)
    )


def summary_text(found: Sequence[Examined], device: Device, ceiling: Ceiling | None) -> str:
    """Failures first, then one line a kernel and workload."""
    failures = [line for one in found for line in failure_lines(one.verdicts, f"{one.op.name}, ")]
    wrong = [f"IMPOSSIBLE {one.op.name}, {m.wrong}" for one in found for m in one.measured if m.wrong]
    head = ("kernel", "workload", "cases", "of bound", "median", "moves", "computes", "of ceiling", "limit")
    rows = [row for one in found for row in _summary_rows(one)]
    first = f"on {device.name}" + (f": ceiling {ceiling}" if ceiling else "")
    return "\n".join([first, *failures, *wrong, table(head, rows, words=2)])


def _summary_rows(one: Examined) -> list[tuple[str, ...]]:
    total = len(one.verdicts) + one.left_out
    right = f"{sum(verdict.passed for verdict in one.verdicts)}/{total}"
    shares = [worst.share for verdict in one.verdicts for worst in verdict.worst]
    share = percent(max(shares)) if shares and math.isfinite(max(shares)) else ("inf" if shares else "-")
    if not one.measured:
        return [(one.op.name, "", right, share, "", "", "", "", "")]
    rows = []
    for place, measured in enumerate(one.measured):
        name, _, *numbers = _time_row(measured)
        first = (one.op.name, name, right, share) if place == 0 else ("", name, "", "")
        rows.append((*first, *numbers))
    return rows


def data(device: Device, ceiling: Ceiling | None, found: Sequence[Examined]) -> Data:
    """Everything, as one JSON-able object; an infinite share of a bound is null."""
    return {
        "device": {"name": device.name, "kind": device.kind, "arch": device.arch},
        "ceiling": {**asdict(ceiling.rates), "launch_seconds": ceiling.launch_seconds} if ceiling else None,
        "passed": not any(one.problems for one in found),
        "kernels": [_examined_data(one) for one in found],
    }


def _examined_data(one: Examined) -> Data:
    return {
        "name": one.op.name,
        "source": one.op.source or None,
        "passed": one.passed,
        "cases": [_verdict_data(verdict) for verdict in one.verdicts],
        "cases_not_run": one.left_out,
        "times": [measured_data(measured) for measured in one.measured],
        "shipped_times": [measured_data(measured) for measured in one.shipped],
        "problems": one.problems,
    }


def _verdict_data(verdict: Verdict) -> Data:
    return {
        "name": verdict.case,
        "passed": verdict.passed,
        "failure": verdict.failure or None,
        "cause": verdict.cause or None,
        "owner": asdict(verdict.owner) if verdict.owner else None,
        "unwritten": verdict.unwritten,
        "worst": [_finite(asdict(worst)) for worst in verdict.worst],
    }


def _finite(values: Data) -> Data:
    """JSON has no infinity and no NaN: they become text."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def measured_data(one: Measured) -> Data:
    """A time with all that it is held against."""
    timing, figure = one.timing, one.figure
    return {
        "workload": timing.workload.name,
        "symbols": timing.workload.symbols,
        "seconds": timing.seconds,
        "samples": list(timing.samples),
        "bytes": figure.bytes,
        "flops": figure.flops,
        "bytes_per_second": figure.bytes_per_second,
        "flops_per_second": figure.flops_per_second,
        "floor_seconds": figure.floor_seconds,
        "fraction_of_ceiling": figure.fraction,
        "limit": figure.bound,
        "copies": timing.copies,
        "cold": timing.cold,
        "resources": asdict(one.resources) if one.resources else None,
        "impossible": one.wrong or None,
    }
