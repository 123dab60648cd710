"""A watchpoint: which block and thread wrote a range of device memory, and at which line of its kernel.

It needs kernels that were compiled while checks are on (`checks.py`): they call the runtime before each access. While
something is watched, nothing else is asked of an access, so that a kernel that does wrong runs to its end as it does
without checks. What copies, fills and products write is not noted.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

from bindings.cpu import checks
from bindings.cpu.executor import KernelInfo, access_checks, line_at
from bindings.errors import CutawayError


@dataclass(frozen=True)
class Writer:
    """Who wrote: a thread of a kernel's launch, and `file:line`, None where that is not known."""

    kernel: str
    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    location: str | None


@dataclass(frozen=True)
class Writes:
    """How many writes of kernels went into a range of memory, and who made the first and the last."""

    count: int
    first: Writer
    last: Writer


class _CWriter(ctypes.Structure):
    """struct Writer of access_checks/watch.h."""

    _fields_ = (
        ("block", ctypes.c_uint * 3),
        ("thread", ctypes.c_uint * 3),
        ("program_counter", ctypes.c_uint64),
    )


class _CWrites(ctypes.Structure):
    """struct Writes of access_checks/watch.h."""

    _fields_ = (("count", ctypes.c_uint64), ("first", _CWriter), ("last", _CWriter))


_watching = False
_writes: Writes | None = None


def watch_writes(address: int, nbytes: int) -> None:
    """Note from the next launch on who writes any of `nbytes` from `address` on; 0 bytes end it. Not in CUDA.

    Raises CutawayError while checks are off: then kernels don't tell.
    """
    global _watching, _writes
    if nbytes and not checks.checking():
        raise CutawayError("writes can be watched only with checks on: call set_checks('memory') first")
    if nbytes or _watching:
        access_checks().simt_watch(address, nbytes)
    _watching, _writes = nbytes > 0, None


def watched_writes() -> Writes | None:
    """The writes since `watch_writes`; None if there were none. Not in CUDA."""
    return _writes


def after_launch(kernel: KernelInfo) -> None:
    """Add the writes of a launch that has just ended.

    Raises CutawayError if something is watched and the kernel was compiled without checks.
    """
    global _writes
    if not _watching:
        return
    if not kernel.loaded.checked:
        raise CutawayError(f"{kernel.name} was compiled without checks: nobody can say what it wrote")
    found = _CWrites()
    access_checks().simt_take_writes(ctypes.addressof(found))
    if found.count:
        new = Writes(found.count, _writer(kernel, found.first), _writer(kernel, found.last))
        _writes = replace(new, count=_writes.count + new.count, first=_writes.first) if _writes else new


def _writer(kernel: KernelInfo, found: _CWriter) -> Writer:
    return Writer(kernel.name, tuple(found.block), tuple(found.thread), line_at(kernel, found.program_counter))
