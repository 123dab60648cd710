"""Kernels that go wrong: what the report says, and that the process goes on as if nothing had happened."""

from __future__ import annotations

import ctypes
import mmap
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings.cpu import executor
from tests.cpu_device.simt_support import KERNELS, aligned_zeros, kernels_of

FAULTS = kernels_of("simt_faults.cu")
FILE = KERNELS / "simt_faults.cu"


def line_of(text: str) -> str:
    """`file:line` of the only line of simt_faults.cu that contains `text`."""
    (line,) = [number for number, content in enumerate(FILE.read_text().splitlines(), 1) if text in content]
    return f"{FILE}:{line}"


def report_of(name: str, block: Any, *arguments: Any, **geometry: Any) -> executor.Report:
    report = FAULTS.launch(name, block, *arguments, **geometry)
    assert report is not None
    assert report.kernel == name
    return report


@pytest.fixture(autouse=True)
def the_device_goes_on() -> Iterator[None]:
    """After each of these tests a launch on all threads of the pool still works."""
    yield
    for order in executor.ORDERS:
        executor.set_schedule(order, 1)
        out = np.zeros(64 * 256, np.int32)
        assert FAULTS.launch("fine", 256, out, grid=64) is None
        assert out.sum() == out.size


@pytest.mark.parametrize("thread", [0, 77])
def test_illegal_address(thread: int) -> None:
    nowhere = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(nowhere)) if thread else 64
    if thread:
        libc = ctypes.CDLL(None)
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    report = report_of("write_at", 128, ctypes.c_void_p(address), thread)
    assert (report.kind, report.block, report.thread) == ("illegal address", (0, 0, 0), (thread, 0, 0))
    assert report.address == address
    assert report.location == line_of("*address = 1")
    assert str(report).startswith(
        f"illegal address in write_at at {report.location}, block (0, 0, 0), thread ({thread}, 0"
    )


@pytest.mark.parametrize("index", [8, 1000])
def test_access_past_the_end_of_dynamic_shared_memory(index: int) -> None:
    report = report_of("overrun_shared", 8, np.zeros(1, np.int32), index, shared_bytes=32)
    assert (report.kind, report.thread) == ("illegal address", (3, 0, 0))
    assert report.text == f"access {index * 4 - 32} bytes past the end of dynamic shared memory"
    assert report.location == line_of("tile[index]")


def test_dynamic_shared_memory_ends_at_the_next_multiple_of_16() -> None:
    out = np.zeros(1, np.int32)
    assert FAULTS.launch("overrun_shared", 8, out, 7, shared_bytes=17) is None  # 32 bytes are there
    assert report_of("overrun_shared", 8, out, 8, shared_bytes=17).kind == "illegal address"


def test_division_by_zero() -> None:
    out = np.ones(4, np.int32)
    report = FAULTS.launch("divide", 4, out, 0)
    if platform.machine() in ("x86_64", "AMD64"):
        assert report is not None
        assert (report.kind, report.location) == ("integer division by zero", line_of("/ divisor"))
    else:  # ARM answers 0 and goes on; CUDA leaves the result open
        assert report is None


def test_stack_overflow() -> None:
    report = report_of("overflow_stack", 64, np.zeros(64, np.int32))
    assert (report.kind, report.thread) == ("stack overflow", (0, 0, 0))
    assert report.location is not None and report.location.startswith(f"{FILE}:")


def test_misaligned_vector_access() -> None:
    if platform.machine() in ("x86_64", "AMD64"):  # ARM's loads take any address
        report = report_of("misaligned", 1, aligned_zeros(4, np.int32), aligned_zeros(8, np.int32))
        assert (report.kind, report.thread) == ("misaligned address", (0, 0, 0))
        assert report.location == line_of("load16(in + 1)")  # not the line of load16 itself, in common.cuh


def test_trap_in_one_block_of_many() -> None:
    report = report_of("trap_in_block", 32, 37, grid=50)
    assert (report.kind, report.block, report.thread) == ("trap", (37, 0, 0), (0, 0, 0))
    assert report.location == line_of("__trap()")


def test_assert() -> None:
    report = report_of("check", 32, 1)
    assert (report.kind, report.thread) == ("assertion failed", (5, 0, 0))
    assert report.text == "assertion failed: value == 1 && threadIdx.x < 5"
    assert report.location == line_of("assert(")


@pytest.mark.parametrize("order", executor.ORDERS)
def test_barrier_that_only_half_a_warp_reaches(order: str) -> None:
    executor.set_schedule(order, 2)
    report = report_of("barrier_in_branch", 32, np.zeros(32, np.int32), grid=3)
    assert (report.kind, report.thread) == ("divergent barrier", None)  # no single thread is to blame
    assert report.block in {(0, 0, 0), (1, 0, 0), (2, 0, 0)}
    assert report.location == line_of("if (threadIdx.x < 16) __syncthreads")
    assert str(report).startswith(f"divergent barrier in barrier_in_branch at {report.location}, block (")
    assert f"threads 0-15 wait in __syncthreads at {line_of('if (threadIdx.x < 16) __syncthreads')}" in report.text
    assert "threads 16-31 wait in __shfl_sync" in report.text


def two_barriers() -> list[int]:
    """The lines of the barriers in two_different_barriers."""
    lines = FILE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "two_different_barriers" in line)
    return [i + 1 for i in range(start, start + 7) if "__syncthreads" in lines[i]]


@pytest.mark.parametrize("order", executor.ORDERS)
def test_barriers_on_different_lines(order: str) -> None:
    executor.set_schedule(order, 2)
    report = report_of("two_different_barriers", 64, np.zeros(64, np.int32))
    assert (report.kind, report.block) == ("divergent barrier", (0, 0, 0))
    places = [f"{FILE}:{line}" for line in two_barriers()]
    assert report.location in places
    for threads, place in zip(("0-31", "32-63"), places, strict=True):
        assert f"threads {threads} wait in __syncthreads at {place}" in report.text


HOST_FAULT = """
import ctypes, faulthandler, sys
faulthandler.enable()
import numpy as np
from tests.cpu_device.simt_support import kernels_of
faults = kernels_of("simt_faults.cu")
for _ in range(2):
    assert faults.launch("write_at", 32, ctypes.c_void_p(64), 3).kind == "illegal address"
    {between}
print("reported", flush=True)
ctypes.string_at(8)
"""


@pytest.mark.parametrize("between", ["pass", "faulthandler.disable(); faulthandler.enable()", "faulthandler.enable()"])
def test_a_fault_outside_a_kernel_goes_to_pythons_faulthandler(between: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOST_FAULT.format(between=between)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "reported\n"
    assert done.returncode == -11
    assert "Segmentation fault" in done.stderr and "string_at" in done.stderr
