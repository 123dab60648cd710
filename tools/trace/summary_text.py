"""The summary as text."""

from __future__ import annotations

from collections.abc import Sequence

from tools.trace.events import EXPECTED
from tools.trace.memory import OWNERS, PINNED, device_bytes
from tools.trace.summary import WAITS, Steps, Summary, Tally, largest
from tools.trace.terminal import Screen
from tools.trace.units import amount, counted, duration, percent, rate

MOST = 16  # rows of a table; the rest is one row
SPACIOUS = 100  # columns from which on the columns of a table stand further apart
NAME = 36
LONGEST = 5  # kernels told of each kind of step

Row = tuple[str, ...]


def show(summary: Summary, screen: Screen, filtered: bool = False, whole: bool = False) -> None:
    """Print it. `filtered`: the table showed some calls only. `whole`: every row of every table."""
    screen.line()
    title = "Summary of everything" + (", whatever the filters chose to list" if filtered else "")
    screen.line(screen.paint(title, "bold"))
    most = None if whole else MOST
    _table(screen, ("API calls", "calls", "host", "mean", "share"), _call_rows(summary), most)
    titles = ("on the device", "runs", "device", "mean", "bytes", "rate", "limit", "share")
    _table(screen, titles, _work_rows(summary), most)
    for lines in (_step_lines(summary, screen), _memory_lines(summary, screen), _waiting_lines(summary)):
        for line in lines:
            screen.line(line)


def _table(screen: Screen, titles: Row, rows: Sequence[Row], most: int | None) -> None:
    """A heading, and a row for each; the first column to the left, the others to the right, empty ones left out."""
    if not rows:
        return
    filled = [i for i in range(len(titles)) if any(row[i] for row in rows)]
    titles, *shown = (tuple(row[i] for i in filled) for row in (titles, *rows[:most]))
    gap = "  " if screen.width is None or screen.width >= SPACIOUS else " "
    name, *widths = (max(len(row[i]) for row in (titles, *shown)) for i in range(len(titles)))
    for row in (titles, *shown):
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True)]
        line = gap.join([f"{row[0]:{name}}", *cells]).rstrip()
        screen.line(screen.paint(line, "bold") if row is titles else line)
    if len(shown) < len(rows):
        screen.line(screen.paint(f"... and {len(rows) - len(shown)} more that took less: --json has all", "dim"))
    screen.line()


def _call_rows(summary: Summary) -> list[Row]:
    host_us = sum(tally.us for tally in summary.calls.values())
    return [
        (name, f"{tally.count:,}", duration(tally.us), _mean(tally), percent(tally.us / host_us) if host_us else "")
        for name, tally in largest(summary.calls)
    ]


def _mean(tally: Tally) -> str:
    return "" if tally.mean_us is None else duration(tally.mean_us)


def _work_rows(summary: Summary) -> list[Row]:
    rows: list[Row] = []
    for name, work in largest(summary.work):
        achieved = work.speed(summary.limits)
        speed = rate(achieved.per_second, achieved.unit) if achieved else ""
        limit = percent(achieved.fraction) if achieved and achieved.fraction is not None else ""
        share = percent(work.us / summary.device_us) if summary.device_us else ""
        total = duration(work.us) if work.timed else ""
        rows.append((name, f"{work.count:,}", total, _mean(work), amount(work.nbytes), speed, limit, share))
    return rows


def _step_lines(summary: Summary, screen: Screen) -> list[str]:
    lines = []
    for kind, steps in summary.kinds.items():
        title = f"{counted(steps.count, f'{kind} step')}: {_per_step(steps)}"
        lines += [screen.paint(title, "bold"), *_longest(steps), ""]
    return lines


def _per_step(steps: Steps) -> str:
    least, most = steps.least, steps.most
    each = " each" if steps.count > 1 else ""
    kernels = f"{counted(least, 'kernel')}{each}" if least == most else f"{least:,} to {most:,} kernels"
    busy, host = steps.device_us / steps.count, steps.host_us / steps.count
    times = [f"device {duration(busy)}"] if busy else []
    words = f"{kernels}; {', '.join([*times, f'calls of the host {duration(host)}'])}{' on average' if each else ''}"
    return f"{words}; longest:" if busy else words


def _longest(steps: Steps) -> list[str]:
    """What takes longest in a step."""
    us = sum(tally.us for tally in steps.work.values())
    if not us:
        return []
    return [
        f"  {name:{NAME - 2}}  {tally.count / steps.count:6.4g} times  {duration(tally.us / steps.count):>7}"
        f"  {percent(tally.us / us):>5}"
        for name, tally in largest(steps.work)[:LONGEST]
    ]


def _memory_lines(summary: Summary, screen: Screen) -> list[str]:
    memory = summary.memory
    if not memory.fullest:
        return []
    most = device_bytes(memory.fullest)
    title = f"{f'device memory at its fullest: {amount(most)}':{NAME}}  {'':>9}  {'at the end':>10}"
    lines = [screen.paint(title, "bold")]
    for name in (*OWNERS, PINNED):
        if name in memory.fullest or name in memory.now:
            then, now = memory.fullest.get(name, 0), memory.now.get(name, 0)
            lines.append(f"  {name:{NAME - 2}}  {amount(then):>9}  {amount(now):>10}")
    return [*lines, ""]


def _waiting_lines(summary: Summary) -> list[str]:
    host = sum(tally.us for tally in summary.calls.values())
    waiting = sum(summary.calls[name].us for name in WAITS if name in summary.calls)
    lines = [f"host: {duration(host)} in calls, {duration(waiting)} of it waiting for the device"]
    idle = summary.idle()
    if idle is not None:
        span, busy, waited = (idle[key] for key in ("span_us", "busy_us", "waited_us"))
        share = percent(waited / span)
        lines += [
            f"device: busy {duration(busy)} of the {duration(span)} from the first work of a step to the last",
            f"        it waited for the host for {duration(waited)} ({share}), a host that tracing slows down:",
            "        the engine by itself keeps it busier",
        ]
    elif summary.replays:
        lines.append("device: kernels were launched one by one to be timed, where a graph would run without gaps")
    return lines + [_failure(*failure, count) for failure, count in summary.failed.items()]


def _failure(call: str, error: str, count: int) -> str:
    if (call, error) in EXPECTED:
        return f"{call} answered {error} {counted(count, 'time')}, which says that there is no more"
    return f"failed: {call}, {error}, {counted(count, 'time')}"
