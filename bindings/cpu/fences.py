"""When the slack around allocations is looked at, and what is done about a write into it.

Looking costs about 0.4 us an allocation. So it is done at a free and at each synchronisation, where nobody can tell any
more who wrote; CUTAWAY_CPU_FENCES=launch looks after each operation and names it.
"""

from __future__ import annotations

import os

from bindings.cpu.executor import Report
from bindings.cpu.memory import Allocation, blame, heap
from bindings.errors import CutawayError

MODES = ("sync", "launch")

_every_launch = False


def set_fences(mode: str) -> None:
    """Look at the slack at synchronisations (`sync`), or after every operation too (`launch`). Not in CUDA.

    Raises CutawayError on another word.
    """
    global _every_launch
    if mode not in MODES:
        raise CutawayError(f"CUTAWAY_CPU_FENCES is {mode!r}; it must be one of {', '.join(MODES)}")
    _every_launch = mode == "launch"


def set_fences_from_environment() -> None:
    """As CUTAWAY_CPU_FENCES says, `sync` if it is not set."""
    set_fences(os.environ.get("CUTAWAY_CPU_FENCES") or "sync")


def _fail(address: int | None, culprit: str) -> None:
    if address is not None:
        text = f"a write to {address:#x}, outside of every allocation"
        raise blame(Report("illegal address", culprit, None, None, address, None, text))


def after_every_operation() -> bool:
    """Whether the slack is looked at after each operation."""
    return _every_launch


def after_operation(name: str) -> None:
    """Called after each operation; if asked for, kills the context if that wrote outside of an allocation."""
    if _every_launch:
        _fail(heap.first_damage(), name)


def at_synchronisation() -> None:
    """Kill the context if something wrote outside of an allocation."""
    _fail(heap.first_damage(), "earlier work (CUTAWAY_CPU_FENCES=launch tells which)")


def at_free(allocation: Allocation) -> None:
    """As `at_synchronisation`, for one allocation."""
    _fail(allocation.damage(), "earlier work (CUTAWAY_CPU_FENCES=launch tells which)")
