"""Copies, fills and products that two streams make at the same time: reported whatever order they ran in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bindings.cpu import cublas, driver
from bindings.memory import memory_map
from tests.cpu_device.driver.support import GLOBAL, ok, status, upload


class Program:
    """Two streams, an event, two buffers of 1024 bytes called "left" and "right", and a larger one."""

    def __init__(self) -> None:
        self.first, self.second = (ok(driver.cuStreamCreate(1)) for _ in range(2))
        self.event = ok(driver.cuEventCreate(2))
        self.left, self.right = (upload(np.zeros(256, np.float32)) for _ in range(2))
        self.out = upload(np.zeros(512, np.float32))

    def order(self) -> None:
        """Let `second` wait for what `first` was given."""
        ok(driver.cuEventRecord(self.event, self.first))
        ok(driver.cuStreamWaitEvent(self.second, self.event, 0))

    def fill(self, stream: Any, address: int, nbytes: int = 1024) -> Any:
        return driver.cuMemsetD8Async(address, 0, nbytes, stream)

    def copy(self, stream: Any) -> Any:
        """From left to right."""
        return driver.cuMemcpyDtoDAsync(self.right, self.left, 1024, stream)

    def product(self, stream: Any, out: int, columns: int = 16, leading: int = 16) -> Any:
        """The first `columns` columns of out[16, 16] = left @ left, `leading` floats apart."""
        blas = ok(cublas.cublasCreate())
        ok(cublas.cublasSetStream(blas, int(stream)))
        sizes = (columns, 16, 16)
        operands = (1.0, self.left, 0, 16, self.left, 0, 16, 0.0, out, 0, leading)
        return cublas.cublasGemmEx(blas, 0, 0, *sizes, *operands, 68, -1)

    def graph(self, stream: Any) -> Any:
        """A copy from left to right, as a graph."""
        ok(driver.cuStreamBeginCapture(stream, GLOBAL))
        ok(self.copy(stream))
        executable = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
        return driver.cuGraphLaunch(executable, stream)


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    names = {"left": made.left, "right": made.right}
    for name, address in names.items():
        memory_map.add(address, 1024, name)
    driver.set_streams("lazy")
    yield made
    for address in names.values():
        memory_map.remove(address)


# What the first stream does, what the second does, and where they meet.
CONFLICTS: dict[str, tuple[Callable[[Program], Any], Callable[[Program], Any], str]] = {
    "write, read": (lambda p: p.fill(p.first, p.left), lambda p: p.copy(p.second), "reads left, which the memset"),
    "read, write": (lambda p: p.copy(p.first), lambda p: p.fill(p.second, p.left), "writes left, which the copy"),
    "write, write": (lambda p: p.copy(p.first), lambda p: p.fill(p.second, p.right), "writes right, which the copy"),
    "one byte": (
        lambda p: p.fill(p.first, p.left + 1000, 24),
        lambda p: p.fill(p.second, p.left, 1001),
        "writes left+0x3e8, which the memset",
    ),
    "product": (
        lambda p: p.product(p.first, p.right),
        lambda p: p.fill(p.second, p.left),
        "writes left, which the gemm",
    ),
    "graph": (lambda p: p.graph(p.first), lambda p: p.fill(p.second, p.right), "writes right, which the graph"),
    "default stream": (lambda p: p.fill(p.first, p.left), lambda p: p.fill(0, p.left), "writes left, which the memset"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_two_streams_that_meet_are_reported(case: str, program: Program) -> None:
    first, second, text = CONFLICTS[case]
    ok(first(program))
    assert status(second(program)) == "ERROR_LAUNCH_FAILED"
    report = driver.last_report()
    assert report is not None and report.kind == "unordered access" and text in report.text
    assert f"given to stream {int(program.first):#x} at tests/cpu_device/driver/test_hazards.py:" in report.text
    assert report.location is not None and "test_hazards.py:" in report.location and "\n" not in str(report)


@pytest.mark.parametrize("case", [name for name in CONFLICTS if name != "default stream"])
def test_an_event_puts_them_in_order(case: str, program: Program) -> None:
    first, second, _ = CONFLICTS[case]
    ok(first(program))
    program.order()
    ok(second(program))
    ok(driver.cuCtxSynchronize())


@pytest.mark.parametrize("wait", ["stream", "event", "context", "query"])
@pytest.mark.parametrize("case", CONFLICTS)
def test_a_host_that_waits_puts_them_in_order(case: str, wait: str, program: Program) -> None:
    first, second, _ = CONFLICTS[case]
    ok(first(program))
    ok(driver.cuEventRecord(program.event, program.first))
    waits = {
        "stream": lambda: driver.cuStreamSynchronize(program.first),
        "event": lambda: driver.cuEventSynchronize(program.event),
        "context": driver.cuCtxSynchronize,
        "query": lambda: driver.cuStreamQuery(program.first),
    }
    while status(waits[wait]()) == "ERROR_NOT_READY":
        pass
    ok(second(program))


def test_waiting_for_another_stream_is_not_enough(program: Program) -> None:
    ok(program.fill(program.first, program.left))
    ok(program.fill(program.second, program.right))
    ok(driver.cuStreamSynchronize(program.second))
    assert status(program.fill(program.second, program.left)) == "ERROR_LAUNCH_FAILED"


def test_order_goes_through_a_third_stream(program: Program) -> None:
    third, event = ok(driver.cuStreamCreate(1)), ok(driver.cuEventCreate(2))
    ok(program.fill(program.first, program.left))
    program.order()
    ok(driver.cuEventRecord(event, program.second))
    ok(driver.cuStreamWaitEvent(third, event, 0))
    ok(program.fill(third, program.left))


def test_streams_bound_to_the_default_stream_are_in_order_with_it_alone(program: Program) -> None:
    one, other = (ok(driver.cuStreamCreate(0)) for _ in range(2))
    ok(program.fill(one, program.left))
    ok(program.fill(0, program.left))
    ok(program.fill(other, program.left))
    assert status(program.fill(one, program.left)) == "ERROR_LAUNCH_FAILED"


def test_what_does_not_meet_is_no_conflict(program: Program) -> None:
    ok(program.fill(program.first, program.left, 512))
    ok(program.fill(program.second, program.left + 512, 512))
    ok(driver.cuCtxSynchronize())
    ok(program.copy(program.first))  # both only read left
    ok(program.product(program.second, program.out))


def test_products_side_by_side_in_one_matrix_are_no_conflict(program: Program) -> None:
    """Their columns alternate: from first to last byte they overlap, byte by byte they do not."""
    ok(program.product(program.first, program.out, leading=32))
    ok(program.product(program.second, program.out + 64, leading=32))


def test_eager_streams_look_for_nothing(program: Program) -> None:
    driver.set_streams("eager")
    ok(program.fill(program.first, program.left))
    ok(program.fill(program.second, program.left))
