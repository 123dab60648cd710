"""The CPU device's memory: each allocation between fences, poisoned when new and out of reach when freed.

    | guard page | slack | the allocation, 256-byte aligned | slack < 256 bytes | guard page |

* The guard pages can't be touched, and an allocation ends as close to the second one as its alignment allows: an access
  beyond the end, or before the start, faults at once or lands in the slack.
* The slack holds CANARY, which is a NaN in bf16, f16 and f32 and so shows when read. A write shows when the slack is
  looked at: at a free, at a synchronisation, and after every launch with CUTAWAY_CPU_FENCES=launch.
* New memory holds 0xFF bytes: NaN again, and -1 as an index. It is not filled but mapped, copy-on-write, from one small
  file of 0xFF bytes. A page takes memory when it is first written, which costs what a page of zeros costs (0.8 us for
  4 KiB, measured), and one that is only reserved, as most of a KV cache is, takes none.
* Freed memory goes back to the system, but its addresses stay out of use for a while: a use after free faults.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from cuda.bindings.driver import CUresult

from bindings.cpu.context import INVALID_VALUE, Failure, fault, on_context_end, state
from bindings.cpu.executor import Report
from bindings.cpu.host import memory_limit
from bindings.memory import memory_map

ALIGNMENT = 256  # what cuMemAlloc promises
PAGE = mmap.PAGESIZE
POISON = 0xFF
POISON_FILE_BYTES = 4 << 20  # stays in memory for good; a mapping of its own for each piece of this size
CANARY = b"\xa5\xff"
QUARANTINE_ALLOCATIONS = 1024
QUARANTINE_BYTES = 64 << 30  # of addresses, not of memory

_PROT_NONE, _READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000  # asm-generic/mman.h; the same on x86-64 and aarch64
_RESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

Kind = Literal["device", "host"]


class Slack:
    """The bytes from `start` to `end`, which hold the canary until somebody writes there.

    The canary's phase follows the address: every aligned 16-bit word of it is a NaN.
    """

    def __init__(self, start: int, end: int) -> None:
        odd, nbytes = start % 2, end - start
        self.start = start
        self._canary = (CANARY * (nbytes // 2 + 1))[odd : odd + nbytes]
        self._view = (ctypes.c_char * nbytes).from_address(start)  # `.raw` of it is the quickest way to read memory

    def restore(self) -> None:
        """Write the canary."""
        self._view.raw = self._canary

    def damage(self) -> int | None:
        """The first address that does not hold the canary."""
        if self._view.raw == self._canary:
            return None
        return self.start + next(i for i, byte in enumerate(self._view.raw) if byte != self._canary[i])


@dataclass(frozen=True)
class Allocation:
    """`nbytes` at `address` with slack around, inside the `mapped` bytes (guard pages included) at `mapping`."""

    address: int
    nbytes: int
    kind: Kind
    mapping: int
    mapped: int
    slacks: tuple[Slack, ...] = field(repr=False)

    def damage(self) -> int | None:
        """The first address of the slack that somebody wrote to; None if there is none."""
        return next((found for slack in self.slacks if (found := slack.damage()) is not None), None)


@dataclass(frozen=True)
class Found:
    """What lies at an address: an allocation that lives or was freed, and the distance from its start."""

    allocation: Allocation
    offset: int
    live: bool

    def __str__(self) -> str:
        allocation = self.allocation
        what = f"{'an allocation' if self.live else 'a freed allocation'} of {allocation.nbytes} bytes"
        what += f" at {allocation.address:#x}" + (" (pinned host memory)" if allocation.kind == "host" else "")
        if self.offset < 0:
            return f"{-self.offset} bytes before the start of {what}"
        if self.offset >= allocation.nbytes:
            past = self.offset - allocation.nbytes
            return f"{f'{past} bytes' if past else 'just'} past the end of {what}"
        return f"offset {self.offset} of {what}"


def _map(address: int | None, nbytes: int, protection: int, flags: int, file: int = -1) -> int:
    mapped = _libc.mmap(address, nbytes, protection, flags, file, 0)
    if mapped == _MAP_FAILED:
        raise Failure(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    return int(mapped)


class Heap:
    """All memory of the device, and pinned host memory. Limited by `limit` bytes for device memory."""

    def __init__(self) -> None:
        self._starts: list[int] = []  # of mappings, live and in quarantine, in order
        self._at: dict[int, Allocation] = {}  # by mapping
        self._live: dict[int, Allocation] = {}  # by address
        self._quarantine: deque[Allocation] = deque()
        self._quarantine_bytes = 0
        self._poison_file = -1
        self.device_bytes = 0
        # Told of each new allocation, and of each that is about to go; set by checks.py.
        self.on_allocate: Callable[[Allocation], None] | None = None
        self.on_free: Callable[[Allocation], None] | None = None

    def allocate(self, nbytes: int, kind: Kind) -> Allocation:
        """A new allocation; fails the call if `nbytes` is 0 or there is no memory for it."""
        if nbytes <= 0:
            raise Failure(INVALID_VALUE)
        if kind == "device" and nbytes > memory_limit().free(self.device_bytes):
            raise Failure(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        rounded = -(-nbytes // ALIGNMENT) * ALIGNMENT
        body = -(-rounded // PAGE) * PAGE
        mapping = _map(None, body + 2 * PAGE, _PROT_NONE, _RESERVED)
        first, last = mapping + PAGE, mapping + PAGE + body
        address = last - rounded
        slacks = [Slack(*span) for span in ((first, address), (address + nbytes, last)) if span[0] < span[1]]
        allocation = Allocation(address, nbytes, kind, mapping, body + 2 * PAGE, tuple(slacks))
        try:
            self._poison(first, body)
        except Failure:
            _libc.munmap(mapping, allocation.mapped)
            raise
        for slack in slacks:
            slack.restore()
        self._register(allocation)
        if self.on_allocate:
            self.on_allocate(allocation)
        return allocation

    def _poison(self, address: int, nbytes: int) -> None:
        """Map poison over a reserved range."""
        if self._poison_file < 0:
            self._poison_file = os.memfd_create("cutaway-poison")
            os.write(self._poison_file, bytes([POISON]) * POISON_FILE_BYTES)
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        for offset in range(0, nbytes, POISON_FILE_BYTES):
            piece = min(POISON_FILE_BYTES, nbytes - offset)
            _map(address + offset, piece, _READ_WRITE, flags, self._poison_file)

    def _register(self, allocation: Allocation) -> None:
        insort(self._starts, allocation.mapping)
        self._at[allocation.mapping] = self._live[allocation.address] = allocation
        self.device_bytes += allocation.nbytes if allocation.kind == "device" else 0

    def free(self, address: int, kind: Kind) -> Allocation:
        """Put an allocation out of reach; fails the call unless a living one of `kind` begins at `address`."""
        allocation = self._live.get(address)
        if allocation is None or allocation.kind != kind:
            raise Failure(INVALID_VALUE)
        if self.on_free:
            self.on_free(allocation)
        del self._live[address]
        self.device_bytes -= allocation.nbytes if kind == "device" else 0
        state.epoch += 1
        _map(allocation.mapping, allocation.mapped, _PROT_NONE, _RESERVED | _MAP_FIXED)
        self._quarantine.append(allocation)
        self._quarantine_bytes += allocation.mapped
        while len(self._quarantine) > QUARANTINE_ALLOCATIONS or self._quarantine_bytes > QUARANTINE_BYTES:
            self._release(self._quarantine.popleft())
        return allocation

    def _release(self, allocation: Allocation) -> None:
        """Give the addresses of a freed allocation back."""
        self._quarantine_bytes -= allocation.mapped
        del self._at[allocation.mapping]
        del self._starts[bisect_right(self._starts, allocation.mapping) - 1]
        _libc.munmap(allocation.mapping, allocation.mapped)

    def find(self, address: int) -> Found | None:
        """What lies at or beside `address`: inside an allocation, its slack or its guard pages."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        allocation = self._at[self._starts[index]]
        if address >= allocation.mapping + allocation.mapped:
            return None
        return Found(allocation, address - allocation.address, allocation.address in self._live)

    def holds(self, address: int, nbytes: int) -> bool:
        """Whether one living allocation has all of these bytes."""
        found = self.find(address)
        return found is not None and found.live and 0 <= found.offset <= found.allocation.nbytes - nbytes

    def require(self, address: int, nbytes: int) -> None:
        """Fail the call unless one living allocation has all of these bytes."""
        if not self.holds(address, nbytes):
            raise Failure(INVALID_VALUE)

    def first_damage(self) -> int | None:
        """The first address of the slack around a living allocation that somebody wrote to; None if there is none."""
        damages = (slack.damage() for allocation in self._live.values() for slack in allocation.slacks)
        return next((found for found in damages if found is not None), None)

    def live(self) -> list[Allocation]:
        """All living allocations, oldest first."""
        return list(self._live.values())

    def clear(self) -> None:
        """Free everything."""
        for allocation in self.live():
            self.free(allocation.address, allocation.kind)


heap = Heap()
on_context_end.append(heap.clear)


def blame(report: Report) -> Failure:
    """Kill the context with a report that names what its address belongs to; the failure to raise."""
    found = heap.find(report.address) if report.address else None
    if found is None:
        return fault(report)
    name = memory_map.name_at(found.allocation.address)
    return fault(replace(report, buffer=name, offset=found.offset), str(found))


def find_allocation(address: int) -> Found | None:
    """What lies at or beside `address`, living or freed. Not in CUDA."""
    return heap.find(address)


def live_allocations() -> list[tuple[int, int]]:
    """(address, bytes) of all that was allocated and not freed, pinned host memory too. Not in CUDA."""
    return [(allocation.address, allocation.nbytes) for allocation in heap.live()]
