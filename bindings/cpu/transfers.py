"""Memory entry points: allocate, free, copy, fill.

As in CUDA, freeing waits for the device, and only pinned memory is copied asynchronously: host memory of another kind
may be reused, and has what was copied to it, when the call returns.

A range is checked against the allocations when a copy is given to a stream (CUDA_ERROR_INVALID_VALUE), and again when a
graph that recorded it is launched after something was freed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings.driver import CUdeviceptr

from bindings.cpu import checks, fences, leaks
from bindings.cpu.context import INVALID_VALUE, Failure, entry_point
from bindings.cpu.frees import remember, require_freeable
from bindings.cpu.host import memory_limit
from bindings.cpu.host_buffers import SourceWatch, device_wrote, poison_target
from bindings.cpu.memory import Kind, heap
from bindings.cpu.operations import Operation, Span, Watch
from bindings.cpu.pending import Task
from bindings.cpu.streams import require_safe, runs_later, submit, wait_for, wait_for_all

HOST_ALLOC_FLAGS = 0b111  # PORTABLE, DEVICEMAP, WRITECOMBINED: all the same here


@dataclass
class Copy(Operation):
    """`nbytes` from one address to another. A host side that is not the device's pinned memory can't be checked."""

    what = "copy"
    target: int
    source: int
    nbytes: int
    target_is_host: bool = False
    source_is_host: bool = False
    name: str = "copy"
    _staged: Any = None

    def check(self) -> None:
        _require(self.target, self.nbytes, self.target_is_host)
        _require(self.source, self.nbytes, self.source_is_host)

    def spans(self) -> Sequence[Span]:
        target = Span(self.target, self.nbytes, written=True)
        # What was staged is nobody else's, and its address will be given to others.
        return (target,) if self._staged else (target, Span(self.source, self.nbytes, written=False))

    def stage(self) -> None:
        """Read the source now."""
        self._staged = (ctypes.c_char * self.nbytes).from_buffer_copy(ctypes.string_at(self.source, self.nbytes))
        self.source = ctypes.addressof(self._staged)

    def watch(self) -> Watch | None:
        """Poison a target, and remember a source, that the host must leave alone."""
        if self.target_is_host:
            poison_target(Span(self.target, self.nbytes, written=True))
        is_watched = self.source_is_host and self._staged is None
        return SourceWatch(self.source, self.nbytes) if is_watched else None

    def run(self) -> None:
        ctypes.memmove(self.target, self.source, self.nbytes)
        checks.copied(self.target, self.source, self.nbytes)
        if self.target_is_host:
            device_wrote(Span(self.target, self.nbytes, written=True))


@dataclass
class Fill(Operation):
    """`count` times one unsigned integer of `itemsize` bytes at an address."""

    what = "fill"
    target: int
    value: int
    itemsize: int
    count: int
    name: str = "memset"

    def check(self) -> None:
        heap.require(self.target, self.count * self.itemsize)

    def spans(self) -> Sequence[Span]:
        return (Span(self.target, self.count * self.itemsize, written=True),)

    def run(self) -> None:
        memory = (ctypes.c_uint8 * (self.count * self.itemsize)).from_address(self.target)
        np.ctypeslib.as_array(memory).view(f"u{self.itemsize}").fill(self.value)
        checks.written(self.target, self.count * self.itemsize)


def _require(address: int, nbytes: int, is_host: bool) -> None:
    """Fail the call unless the range is device memory or, on the host's side, anything that is not."""
    found = heap.find(address) if is_host else None
    if not address or (is_host and found and found.allocation.kind == "device"):
        raise Failure(INVALID_VALUE)
    if not is_host or found:
        heap.require(address, nbytes)


def _submit(stream: Any, operation: Copy | Fill, nbytes: int) -> Task | None:
    if nbytes < 0:
        raise Failure(INVALID_VALUE)
    return submit(stream, operation) if nbytes else None  # CUDA accepts an empty range wherever it points


@entry_point(values=2)
def cuMemGetInfo() -> tuple[int, int]:
    """(status, free, total) in bytes: the host's memory, or CUTAWAY_CPU_MEMORY."""
    limit = memory_limit()
    return limit.free(heap.device_bytes), limit.total


def _allocate(nbytes: int, kind: Kind) -> int:
    allocation = heap.allocate(nbytes, kind)
    leaks.allocated(allocation)
    return allocation.address


@entry_point(values=1, needs=require_safe)
def cuMemAlloc(bytesize: int) -> CUdeviceptr:
    """(status, address)."""
    return CUdeviceptr(_allocate(int(bytesize), "device"))


@entry_point(needs=require_safe)
def cuMemFree(dptr: Any) -> None:
    """(status,). A null pointer is accepted, as in CUDA."""
    if int(dptr):
        _free(int(dptr), "device")


@entry_point(values=1, needs=require_safe)
def cuMemHostAlloc(bytesize: int, Flags: int) -> int:
    """(status, address) of pinned host memory: on this device, memory like any other."""
    if int(Flags) & ~HOST_ALLOC_FLAGS:
        raise Failure(INVALID_VALUE)
    return _allocate(int(bytesize), "host")


@entry_point(needs=require_safe)
def cuMemFreeHost(p: Any) -> None:
    """(status,)."""
    if not int(p):
        raise Failure(INVALID_VALUE)
    _free(int(p), "host")


def _free(address: int, kind: Kind) -> None:
    wait_for_all()
    allocation = require_freeable(address, kind)
    fences.at_free(allocation)
    remember(allocation)
    heap.free(address, kind)


@entry_point()
def cuMemcpyHtoDAsync(dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any) -> None:
    """(status,). Memory that is not pinned is read before this returns."""
    copy = Copy(int(dstDevice), int(srcHost), ByteCount, source_is_host=True)
    if ByteCount > 0 and copy.source and runs_later(hStream) and not heap.find(copy.source):
        copy.stage()
    _submit(hStream, copy, ByteCount)


@entry_point()
def cuMemcpyDtoHAsync(dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> None:
    """(status,). Memory that is not pinned is written before this returns."""
    copy = Copy(int(dstHost), int(srcDevice), ByteCount, target_is_host=True)
    task = _submit(hStream, copy, ByteCount)
    if task and not heap.find(copy.target):
        wait_for(task)


@entry_point()
def cuMemcpyDtoDAsync(dstDevice: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> None:
    """(status,)."""
    _submit(hStream, Copy(int(dstDevice), int(srcDevice), ByteCount), ByteCount)


@entry_point()
def cuMemsetD8Async(dstDevice: Any, uc: int, N: int, hStream: Any) -> None:
    """(status,)."""
    _submit(hStream, Fill(int(dstDevice), uc, 1, N), N)


@entry_point()
def cuMemsetD32Async(dstDevice: Any, ui: int, N: int, hStream: Any) -> None:
    """(status,). The address must be a multiple of 4."""
    if int(dstDevice) % 4:
        raise Failure(INVALID_VALUE)
    _submit(hStream, Fill(int(dstDevice), ui, 4, N), N)
