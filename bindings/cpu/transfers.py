"""Memory entry points: allocate, free, copy, fill.

A range is checked against the allocations when a copy is given to a stream (CUDA_ERROR_INVALID_VALUE), and again when a
graph that recorded it is launched after something was freed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings.driver import CUdeviceptr

from bindings.cpu import fences
from bindings.cpu.context import INVALID_VALUE, Failure, entry_point
from bindings.cpu.host import memory_limit
from bindings.cpu.memory import Kind, heap
from bindings.cpu.streams import require_safe, submit

HOST_ALLOC_FLAGS = 0b111  # PORTABLE, DEVICEMAP, WRITECOMBINED: all the same here


@dataclass
class Copy:
    """`nbytes` from one address to another. A host side that is not the device's pinned memory can't be checked."""

    target: int
    source: int
    nbytes: int
    target_is_host: bool = False
    source_is_host: bool = False
    name: str = "copy"

    def check(self) -> None:
        _require(self.target, self.nbytes, self.target_is_host)
        _require(self.source, self.nbytes, self.source_is_host)

    def keep(self) -> None:
        """CUDA, too, reads host memory when the graph runs."""

    def run(self) -> None:
        ctypes.memmove(self.target, self.source, self.nbytes)


@dataclass
class Fill:
    """`count` times one unsigned integer of `itemsize` bytes at an address."""

    target: int
    value: int
    itemsize: int
    count: int
    name: str = "memset"

    def check(self) -> None:
        heap.require(self.target, self.count * self.itemsize)

    def keep(self) -> None:
        """Nothing belongs to the caller."""

    def run(self) -> None:
        memory = (ctypes.c_uint8 * (self.count * self.itemsize)).from_address(self.target)
        np.ctypeslib.as_array(memory).view(f"u{self.itemsize}").fill(self.value)


def _require(address: int, nbytes: int, is_host: bool) -> None:
    """Fail the call unless the range is device memory or, on the host's side, anything that is not."""
    found = heap.find(address) if is_host else None
    if not address or (is_host and found and found.allocation.kind == "device"):
        raise Failure(INVALID_VALUE)
    if not is_host or found:
        heap.require(address, nbytes)


def _submit(stream: Any, operation: Copy | Fill, nbytes: int) -> None:
    if nbytes < 0:
        raise Failure(INVALID_VALUE)
    if nbytes:  # CUDA accepts an empty range wherever it points
        submit(stream, operation)


@entry_point(values=2)
def cuMemGetInfo() -> tuple[int, int]:
    """(status, free, total) in bytes: the host's memory, or CUTAWAY_CPU_MEMORY."""
    limit = memory_limit()
    return limit.free(heap.device_bytes), limit.total


@entry_point(values=1, needs=require_safe)
def cuMemAlloc(bytesize: int) -> CUdeviceptr:
    """(status, address)."""
    return CUdeviceptr(heap.allocate(int(bytesize), "device").address)


@entry_point(needs=require_safe)
def cuMemFree(dptr: Any) -> None:
    """(status,). A null pointer is accepted, as in CUDA."""
    _free(int(dptr), "device")


@entry_point(values=1, needs=require_safe)
def cuMemHostAlloc(bytesize: int, Flags: int) -> int:
    """(status, address) of pinned host memory: on this device, memory like any other."""
    if int(Flags) & ~HOST_ALLOC_FLAGS:
        raise Failure(INVALID_VALUE)
    return heap.allocate(int(bytesize), "host").address


@entry_point(needs=require_safe)
def cuMemFreeHost(p: Any) -> None:
    """(status,)."""
    if not int(p):
        raise Failure(INVALID_VALUE)
    _free(int(p), "host")


def _free(address: int, kind: Kind) -> None:
    if address:
        found = heap.find(address)
        if found and found.live:
            fences.at_free(found.allocation)
        heap.free(address, kind)


@entry_point()
def cuMemcpyHtoDAsync(dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any) -> None:
    """(status,)."""
    _submit(hStream, Copy(int(dstDevice), int(srcHost), ByteCount, source_is_host=True), ByteCount)


@entry_point()
def cuMemcpyDtoHAsync(dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any) -> None:
    """(status,)."""
    _submit(hStream, Copy(int(dstHost), int(srcDevice), ByteCount, target_is_host=True), ByteCount)


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
