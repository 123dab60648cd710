"""Checked mode: every access that a kernel makes to memory is looked at, like compute-sanitizer's memcheck, initcheck
and racecheck in one.

Off by default; CUTAWAY_CPU_CHECK=memory or `set_checks("memory")` turns it on. From then on kernels are compiled so
that they call the runtime before each access (`runtime/checker.h`), and each allocation has a map of one byte for each
of its own that says whether anybody wrote it. The map is kept here; kernels mark what they store, and whatever else
writes device memory calls `written` or `copied`.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

from bindings.cpu import executor
from bindings.cpu.memory import Allocation, heap
from bindings.errors import CutawayError

MODES = ("off", "memory")
WRITTEN = 1


# By the address of each living allocation: uint8[nbytes], 0 where nobody wrote; None where nobody keeps track. The
# memory is mapped, not allocated: only what is touched takes any.
_maps: dict[int, NDArray[np.uint8] | None] = {}
_checking = False


def checking() -> bool:
    """Whether kernels are compiled and run with checks."""
    return _checking


def set_checks(mode: str) -> None:
    """Check every access to memory of the kernels that are compiled from now on (`memory`), or none (`off`).

    What was allocated before counts as written. Not in CUDA. Raises CutawayError on another word.
    """
    global _checking
    if mode not in MODES:
        raise CutawayError(f"CUTAWAY_CPU_CHECK is {mode!r}; it must be one of {', '.join(MODES)}")
    if (mode == "memory") == _checking:
        return
    executor.check_memory(mode == "memory")
    _checking = mode == "memory"
    _maps.clear()
    heap.on_allocate, heap.on_free = (_allocated, _freed) if _checking else (None, None)
    for allocation in heap.live():
        _keep_no_track(allocation)


def set_checks_from_environment() -> None:
    """As CUTAWAY_CPU_CHECK says, if it is set."""
    if os.environ.get("CUTAWAY_CPU_CHECK"):
        set_checks(os.environ["CUTAWAY_CPU_CHECK"])


def _allocated(allocation: Allocation) -> None:
    if allocation.kind == "host":  # the host writes it without telling anybody
        return _keep_no_track(allocation)
    map_ = np.frombuffer(mmap.mmap(-1, allocation.nbytes, mmap.MAP_PRIVATE), np.uint8)
    _maps[allocation.address] = map_
    executor.add_allocation(allocation.address, allocation.nbytes, map_.ctypes.data)


def _keep_no_track(allocation: Allocation) -> None:
    if _checking:
        _maps[allocation.address] = None
        executor.add_allocation(allocation.address, allocation.nbytes, 0)


def _freed(allocation: Allocation) -> None:
    executor.remove_allocation(allocation.address)
    del _maps[allocation.address]


def written_map(address: int, nbytes: int) -> NDArray[np.uint8] | None:
    """Which of `nbytes` bytes from `address` on somebody wrote (not 0); None where nobody keeps track."""
    found = heap.find(address) if _maps else None
    map_ = _maps.get(found.allocation.address) if found and found.live else None
    return None if map_ is None or found is None else map_[found.offset : found.offset + nbytes]


def written(address: int, nbytes: int) -> None:
    """Something other than a checked kernel wrote these bytes."""
    part = written_map(address, nbytes)
    if part is not None:
        part.fill(WRITTEN)


def copied(target: int, source: int, nbytes: int) -> None:
    """These bytes were copied: what nobody had written still counts as such in its new place."""
    to, origin = written_map(target, nbytes), written_map(source, nbytes)
    if to is not None:
        to[:] = WRITTEN if origin is None else origin


def assume_all_written() -> None:
    """An unchecked kernel ran: nobody knows what it wrote."""
    for allocation in heap.live() if _checking else ():
        executor.remove_allocation(allocation.address)
        _keep_no_track(allocation)
