"""Checked mode: each kernel of checked.cu is wrong in one way and must be reported; its right twin must not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from bindings.cpu import cublas, driver, nvrtc
from bindings.cpu.executor import Report
from bindings.errors import CutawayError
from bindings.memory import memory_map
from tests.cpu_device.driver.support import Arguments, function, launch, ok, status, upload
from tests.cpu_device.simt_support import KERNELS, compile_source

FILE = KERNELS / "checked.cu"
THREADS = 64
FAILED, ILLEGAL, MISALIGNED = "ERROR_LAUNCH_FAILED", "ERROR_ILLEGAL_ADDRESS", "ERROR_MISALIGNED_ADDRESS"


@pytest.fixture(autouse=True)
def checks(context: None) -> Iterator[None]:
    """Kernels are checked, and buffers forget the names that a test gave them."""
    driver.set_checks("memory")
    yield
    driver.set_checks("off")
    for address, _, _ in memory_map.live():
        memory_map.remove(address)


@cache
def image() -> bytes:
    """checked.cu, compiled while checks are on."""
    code, compiled, log = compile_source(FILE.read_text(), str(FILE))
    assert code == nvrtc.SUCCESS, log
    return compiled


def line_of(mark: str) -> str:
    """`file:line` of the only line of checked.cu that ends with the comment `mark`."""
    (line,) = [number for number, text in enumerate(FILE.read_text().splitlines(), 1) if text.endswith(f"// {mark}")]
    return f"{FILE}:{line}"


def buffer(name: str, count: int = THREADS, written: bool = True) -> int:
    """New device memory of `count` floats: zeros, or what nobody wrote."""
    address = upload(np.zeros(count, np.float32)) if written else int(ok(driver.cuMemAlloc(count * 4)))
    memory_map.add(address, count * 4, name)  # as bindings.device.Buffer does
    return address


def free(address: int) -> None:
    ok(driver.cuMemFree(address))
    memory_map.remove(address)


def run(name: str, *arguments: int, shared: int = 0) -> str:
    """The status of a launch of 64 threads. An argument is an address if it is large, else an int."""
    kernel = ok(driver.cuModuleGetFunction(ok(driver.cuModuleLoadData(image())), name.encode()))
    values = [ctypes.c_void_p(value) if value > 1 << 32 else ctypes.c_int(value) for value in arguments]
    return status(launch(kernel, Arguments(*values), block=(THREADS, 1, 1), shared=shared))


def report_of(name: str, *arguments: int, failure: str = FAILED, shared: int = 0) -> Report:
    """The report of a launch that must fail so, at the line that is marked with the kernel's name."""
    assert run(name, *arguments, shared=shared) == failure
    report = driver.last_report()
    assert report is not None
    assert (report.kernel, report.block, report.location) == (name, (0, 0, 0), line_of(f"WRONG {name}"))
    return report


def found(report: Report) -> tuple[Any, ...]:
    """What a report says beside kernel, block and line: (kind, thread's x, buffer, offset)."""
    assert report.thread is not None
    return report.kind, report.thread[0], report.buffer, report.offset


def test_read_past_the_end() -> None:
    out, short = buffer("out"), buffer("short", 60)
    report = report_of("read_past_end", out, short, 60, failure=ILLEGAL)
    assert found(report) == ("illegal address", 60, "short", 240)
    assert "read of 4 bytes (just past the end of an allocation of 240 bytes" in str(report)


def test_read_past_the_end_right() -> None:
    assert run("read_past_end_right", buffer("out"), buffer("short", 60), 60) == "SUCCESS"


def test_write_before_the_start() -> None:
    report = report_of("write_before_start", buffer("out"), 3, failure=ILLEGAL)
    assert found(report) == ("illegal address", 0, "out", -12)
    assert "write of 4 bytes" in report.text


def test_write_before_the_start_right() -> None:
    assert run("write_before_start_right", buffer("out", written=False), 3) == "SUCCESS"


def test_use_after_free_tells_the_name_of_what_was_freed() -> None:
    out, gone = buffer("out"), buffer("gone")
    free(gone)
    report = report_of("copy", out, gone, failure=ILLEGAL)
    assert found(report) == ("illegal address", 0, "freed gone", 0)


def test_an_access_of_many_bytes_is_checked_to_its_end() -> None:
    out, short = buffer("out"), buffer("short", 60)
    assert run("copy_block", out, short, 60) == "SUCCESS"
    assert found(report_of("copy_block", out, short, 61, failure=ILLEGAL)) == ("illegal address", 0, "short", 0)


def test_read_of_what_nobody_wrote() -> None:
    report = report_of("copy", buffer("out"), buffer("fresh", written=False))
    assert found(report) == ("read of unwritten memory", 0, "fresh", 0)


def test_what_a_kernel_or_a_fill_or_a_copy_wrote_is_written() -> None:
    out, fresh = buffer("out"), buffer("fresh", written=False)
    assert run("store_half", fresh) == "SUCCESS"
    assert found(report_of("copy", out, fresh)) == ("read of unwritten memory", 32, "fresh", 128)
    driver.reset_sticky()
    ok(driver.cuMemsetD8Async(fresh + 128, 0, 128, 0))
    assert run("copy", out, fresh) == "SUCCESS"


def test_copying_what_nobody_wrote_does_not_write_it() -> None:
    out, fresh, second = buffer("out"), buffer("fresh", written=False), buffer("second")
    assert run("store_half", fresh) == "SUCCESS"
    ok(driver.cuMemcpyDtoDAsync(second, fresh, 256, 0))
    assert found(report_of("copy", out, second)) == ("read of unwritten memory", 32, "second", 128)


def test_copying_what_nobody_wrote_to_the_host_is_no_error() -> None:
    host = np.zeros(THREADS, np.float32)
    ok(driver.cuMemcpyDtoHAsync(host.ctypes.data, buffer("fresh", written=False), host.nbytes, 0))


def test_pinned_memory_counts_as_written() -> None:
    assert run("copy", buffer("out"), int(ok(driver.cuMemHostAlloc(256, 0)))) == "SUCCESS"


def test_an_atomic_operation_reads_too() -> None:
    report = report_of("count_in", buffer("counter", 1, written=False))
    assert found(report) == ("read of unwritten memory", 0, "counter", 0)
    driver.reset_sticky()
    assert run("count_in", buffer("counter", 1)) == "SUCCESS"


def multiply(a: int, b: int, c: int) -> tuple[Any, ...]:
    """c = a b of float32[8, 8]."""
    handle = ok(cublas.cublasCreate()[:2])
    answer: tuple[Any, ...] = cublas.cublasGemmEx(handle, 0, 0, 8, 8, 8, 1.0, a, 0, 8, b, 0, 8, 0.0, c, 0, 8, 68, -1)
    return answer


def test_a_product_reads_its_operands_and_writes_its_result() -> None:
    a, fresh, out = buffer("a"), buffer("fresh", written=False), buffer("out")
    assert multiply(a, a, fresh) == (cublas.SUCCESS,)
    assert run("copy", out, fresh) == "SUCCESS"
    assert run("store_half", half := buffer("half", written=False)) == "SUCCESS"
    assert multiply(a, half, out) == (cublas.EXECUTION_FAILED,)
    report = driver.last_report()
    assert report is not None
    assert (report.kind, report.kernel) == ("read of unwritten memory", "gemm")
    assert (report.buffer, report.offset) == ("half", 128)


@pytest.mark.parametrize("name", ["read_twice_as_wide", "load_crooked"])
def test_misaligned_vector_access(name: str) -> None:
    report = report_of(name, buffer("out"), buffer("in", 2 * THREADS), failure=MISALIGNED)
    assert found(report) == ("misaligned address", 1, "in", 4)
    driver.reset_sticky()
    assert run(f"{name}_right", buffer("out"), buffer("in")) == "SUCCESS"


@pytest.mark.parametrize(("shift", "thread", "offset"), [(1, 63, 256), (-1, 0, -4)])
@pytest.mark.parametrize(("where", "name"), [("dynamic", "dynamic shared memory"), ("static", "row")])
def test_access_beside_shared_memory(where: str, name: str, shift: int, thread: int, offset: int) -> None:
    shared = 256 if where == "dynamic" else 0
    assert run(f"overrun_{where}", buffer("out"), 0, shared=shared) == "SUCCESS"
    report = report_of(f"overrun_{where}", buffer("out"), shift, failure=ILLEGAL, shared=shared)
    assert found(report) == ("illegal address", thread, name, offset)
    assert report.text == f"write of 4 bytes at offset {offset} of {name}"


def test_dynamic_shared_memory_ends_where_the_launch_says() -> None:
    report = report_of("overrun_dynamic", buffer("out"), 0, failure=ILLEGAL, shared=252)
    assert found(report) == ("illegal address", 63, "dynamic shared memory", 252)


def test_read_of_shared_memory_that_nobody_wrote() -> None:
    report = report_of("read_unwritten_shared", buffer("out"))
    assert found(report) == ("read of unwritten memory", 31, "scratch", 124)


@pytest.mark.parametrize("kind", ["load_matrix_crooked", "copy_from"])
def test_misaligned_address_of_an_instruction(kind: str) -> None:
    matrix = kind == "load_matrix_crooked"
    buffers = (buffer("out"),) if matrix else (buffer("out"), buffer("in", 4 * THREADS))
    assert run(kind, *buffers, 0) == "SUCCESS"
    report = report_of(kind, *buffers, 1, failure=MISALIGNED)
    assert found(report) == ("misaligned address", 0, "rows" if matrix else "in", 4)


def test_cp_async_past_the_end() -> None:
    report = report_of("copy_from", buffer("out"), buffer("in", 4 * THREADS), 4, failure=ILLEGAL)
    assert found(report) == ("illegal address", 63, "in", 1024)


# (kernel, thread, offset, shared array, what the other access was, its thread)
RACES = [
    ("missing_barrier", 32, 0, "tile", "with no barrier after the write", 0),
    ("missing_reuse_barrier", 1, 4, "tile", "with no barrier after the read", 0),
    ("missing_syncwarp", 1, 0, "tile", "with no barrier after the write", 0),
    ("half_a_warp_meets", 16, 0, "tile", "with no barrier after the write", 0),
    ("plain_beside_atomic", 1, 0, "count", "with no barrier after the read", 0),
    ("copy_without_wait", 0, 0, "tile", "with no cp_async_wait after the cp.async", 0),
    ("copy_without_barrier", 1, 0, "tile", "with no barrier after the write", 0),
]


@pytest.mark.parametrize(("name", "thread", "offset", "array", "what", "other"), RACES, ids=[race[0] for race in RACES])
def test_race(name: str, thread: int, offset: int, array: str, what: str, other: int) -> None:
    buffers = [buffer("out"), *([buffer("in", 4 * THREADS)] if name.startswith("copy") else [])]
    report = report_of(name, *buffers)
    assert found(report) == ("race on shared memory", thread, array, offset)
    assert report.other is not None
    assert (report.other.what, report.other.thread) == (what, (other, 0, 0))
    assert report.other.location == line_of(f"OTHER {name}")
    assert str(report).endswith(f"{what} by thread ({other}, 0, 0) at {report.other.location}")


TWINS = [race[0] for race in RACES if not race[0].startswith("copy")]


@pytest.mark.parametrize("name", ["read_unwritten_shared", *TWINS])
@pytest.mark.parametrize("schedule", ["ascending", "descending", "shuffled", "greedy"])
def test_right_twin(name: str, schedule: str) -> None:
    driver.set_schedule(schedule, 1)
    assert run(f"{name}_right", buffer("out", written=False)) == "SUCCESS"


@pytest.mark.parametrize("schedule", ["ascending", "descending", "shuffled", "greedy"])
def test_right_twin_of_the_copies(schedule: str) -> None:
    driver.set_schedule(schedule, 1)
    assert run("copy_right", buffer("out", written=False), buffer("in", 4 * THREADS)) == "SUCCESS"


def test_an_unchecked_kernel_may_have_written_anything() -> None:
    """So that a kernel that was compiled before checks were on gives no false report, and none of its own."""
    driver.set_checks("off")
    unchecked = function("affine")
    driver.set_checks("memory")
    fresh, out = buffer("fresh", written=False), buffer("out")
    values = Arguments(
        ctypes.c_void_p(fresh), ctypes.c_void_p(out), (ctypes.c_float * 2)(), ctypes.c_char(0), ctypes.c_int(THREADS)
    )
    assert status(launch(unchecked, values, block=(THREADS, 1, 1))) == "SUCCESS"
    assert run("copy", out, fresh) == "SUCCESS"


def test_what_was_allocated_before_counts_as_written() -> None:
    driver.set_checks("off")
    fresh = buffer("fresh", written=False)
    driver.set_checks("memory")
    assert run("copy", buffer("out"), fresh) == "SUCCESS"


def test_switched_off_a_checked_kernel_is_not_checked() -> None:
    driver.set_checks("off")
    assert run("copy", buffer("out"), buffer("fresh", written=False)) == "SUCCESS"


def test_checked_and_unchecked_images_have_different_keys() -> None:
    checked = nvrtc.toolchain()
    driver.set_checks("off")
    assert nvrtc.toolchain() != checked


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CutawayError, match="CUTAWAY_CPU_CHECK is 'all'; it must be one of off, memory"):
        driver.set_checks("all")
