"""Host memory that an asynchronous copy still needs: reused too early, read too early, and left alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.cpu import driver
from bindings.memory import memory_map
from tests.cpu_device.driver.support import GLOBAL, download, ok, status, upload

NBYTES = 1000


@pytest.fixture
def stream() -> Any:
    return ok(driver.cuStreamCreate(1))


@pytest.fixture
def target() -> int:
    """Zeros on the device."""
    return upload(np.zeros(NBYTES, np.uint8))


@pytest.fixture
def pinned() -> Iterator[int]:
    """Pinned memory called "staging", all ones."""
    address = int(ok(driver.cuMemHostAlloc(NBYTES, 0)))
    bytes_of(address)[:] = 1
    memory_map.add(address, NBYTES, "staging")
    yield address
    memory_map.remove(address)


def bytes_of(address: int) -> NDArray[np.uint8]:
    """A writable view of NBYTES at a host address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * NBYTES).from_address(address))


def test_a_source_that_is_changed_before_its_copy_ran_is_reported(stream: Any, target: int, pinned: int) -> None:
    driver.set_streams("lazy")
    ok(driver.cuMemcpyHtoDAsync(target, pinned, NBYTES, stream))
    bytes_of(pinned)[[77, 400]] = 2
    assert status(driver.cuStreamSynchronize(stream)) == "ERROR_LAUNCH_FAILED"
    report = driver.last_report()
    assert report is not None and (report.kind, report.kernel) == ("host buffer reused", "cuMemcpyHtoDAsync")
    assert report.address == pinned + 77 and report.block is report.thread is None
    assert f"given to stream {int(stream):#x} at tests/cpu_device/driver/test_host_buffers.py:" in report.text
    assert "changed staging, the source of a copy of 1000 bytes" in report.text
    assert "the first changed byte is byte 77" in report.text
    assert "\n" not in str(report) and "block" not in str(report)


def test_a_source_may_be_reused_once_the_host_waited(stream: Any, target: int, pinned: int) -> None:
    event = ok(driver.cuEventCreate(2))
    driver.set_streams("lazy")
    for value in range(5):
        bytes_of(pinned)[:] = value
        ok(driver.cuMemcpyHtoDAsync(target, pinned, NBYTES, stream))
        ok(driver.cuEventRecord(event, stream))
        ok(driver.cuEventSynchronize(event))
    bytes_of(pinned)[:] = 9
    assert (download(target, NBYTES, np.uint8) == 4).all()


def test_memory_that_is_not_pinned_may_be_reused_at_once(stream: Any, target: int) -> None:
    driver.set_streams("lazy")
    values = np.full(NBYTES, 5, np.uint8)
    ok(driver.cuMemcpyHtoDAsync(target, values.ctypes.data, NBYTES, stream))
    values[:] = 6
    ok(driver.cuMemcpyDtoHAsync(values.ctypes.data, target, NBYTES, stream))
    assert (values == 5).all()


def test_the_target_of_a_copy_holds_poison_until_the_host_waited(stream: Any, target: int, pinned: int) -> None:
    driver.set_streams("lazy")
    ok(driver.cuMemcpyDtoHAsync(pinned, target, NBYTES - 10, stream))
    assert (bytes_of(pinned)[:-10] == 0xFF).all() and (bytes_of(pinned)[-10:] == 1).all()
    ok(driver.cuStreamSynchronize(stream))
    assert (bytes_of(pinned)[:-10] == 0).all()


def test_one_buffer_may_go_there_and_back_in_one_stream(stream: Any, target: int, pinned: int) -> None:
    """What a copy has yet to read is not poisoned; what a copy before it writes there is no reuse by the host."""
    other = upload(np.zeros(NBYTES, np.uint8))
    driver.set_streams("lazy")
    ok(driver.cuMemcpyHtoDAsync(target, pinned, NBYTES, stream))
    ok(driver.cuMemsetD8Async(target, 7, 500, stream))
    ok(driver.cuMemcpyDtoHAsync(pinned, target, NBYTES, stream))
    ok(driver.cuMemcpyHtoDAsync(other, pinned + 250, 500, stream))
    ok(driver.cuStreamSynchronize(stream))
    assert (download(other, NBYTES, np.uint8) == [7] * 250 + [1] * 250 + [0] * 500).all()


def test_a_graph_reads_its_source_when_it_runs(stream: Any, target: int, pinned: int) -> None:
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuMemcpyHtoDAsync(target, pinned, NBYTES, stream))
    executable = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
    driver.set_streams("lazy")
    bytes_of(pinned)[:] = 3
    ok(driver.cuGraphLaunch(executable, stream))
    ok(driver.cuStreamSynchronize(stream))
    assert (download(target, NBYTES, np.uint8) == 3).all()
    ok(driver.cuGraphLaunch(executable, stream))
    bytes_of(pinned)[0] = 4
    assert status(driver.cuCtxSynchronize()) == "ERROR_LAUNCH_FAILED"
    assert driver.last_report().kind == "host buffer reused"
