"""What a program leaves behind: memory, streams, events, modules and graphs that live when the context ends.

Nothing is said unless asked for, with CUTAWAY_CPU_LEAKS=report: the end of a process frees everything, and a program
that was interrupted has better things to say. Asked for, there is one line on stderr for each kind, when the last
holder releases the primary context, or when the process ends before that. After a fault nothing is said: nothing could
be freed.
"""

from __future__ import annotations

import atexit
import os
import sys

from bindings.cpu.context import SUCCESS, Table, on_context_end, state
from bindings.cpu.memory import Allocation, Kind, heap
from bindings.errors import CutawayError
from bindings.memory import memory_map
from bindings.trace import call_site

MODES = ("ignore", "report")
SHOWN = 5  # of one kind

_sites: dict[int, str] = {}  # of allocations
on_context_end.append(_sites.clear)


def set_leaks_from_environment() -> None:
    """As CUTAWAY_CPU_LEAKS says, `ignore` if it is not set. Raises CutawayError on another word."""
    mode = os.environ.get("CUTAWAY_CPU_LEAKS") or "ignore"
    if mode not in MODES:
        raise CutawayError(f"CUTAWAY_CPU_LEAKS is {mode!r}; it must be one of {', '.join(MODES)}")
    state.reports_leaks = mode == "report"


def allocated(allocation: Allocation) -> None:
    """Remember which line made an allocation, if leaks are to be told."""
    if state.reports_leaks:
        _sites[allocation.address] = call_site()


def _line(what: str, living: list[str], nbytes: int | None = None) -> str:
    number = f"{len(living)} {what}{'' if len(living) == 1 else 's'}"
    size = "" if nbytes is None else f" of {nbytes} bytes in all"
    more = f" and {len(living) - SHOWN} more" if len(living) > SHOWN else ""
    return f"cutaway: leaked {number}{size}: {', '.join(living[:SHOWN])}{more}"


def _allocations(kind: Kind, what: str) -> list[str]:
    """The line on the living allocations of one kind, if there are any."""
    living = [one for one in heap.live() if one.kind == kind]
    told = [f"{memory_map.describe(one.address)} ({one.nbytes} bytes, from {_site(one)})" for one in living]
    return [_line(what, told, sum(one.nbytes for one in living))] if living else []


def _site(allocation: Allocation) -> str:
    return _sites.get(allocation.address, "an unknown line")


def leaks() -> list[str]:
    """One line for each kind of thing that lives."""
    lines = [*_allocations("device", "device allocation"), *_allocations("host", "pinned host allocation")]
    for table in Table.told:
        sites = [f"from {site}" for site in table.sites()]
        lines += [_line(table.what, sites)] if sites else []
    return lines


@atexit.register
def report() -> None:
    """Say on stderr what lives, if asked for."""
    if state.reports_leaks and state.retained and state.sticky is SUCCESS:
        for line in leaks():
            print(line, file=sys.stderr)
