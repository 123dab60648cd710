"""Allocations, their fences and poison, copies and fills."""

from __future__ import annotations

import ctypes
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from bindings.cpu import driver, memory
from tests.cpu_device.driver.support import download, ok, repair, status, upload

SIZES = [1, 2, 255, 256, 257, 4095, 4096, 4097, 70001, memory.POISON_FILE_BYTES + 3]


def bytes_at(address: int, count: int) -> bytes:
    return ctypes.string_at(address, count)


def permissions_at(address: int) -> str:
    """As /proc/self/maps has them."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        first, last = (int(part, 16) for part in span.split("-"))
        if first <= address < last:
            return permissions
    return "not mapped"


@pytest.mark.parametrize("nbytes", SIZES)
def test_new_memory_is_aligned_poison(nbytes: int) -> None:
    address = int(ok(driver.cuMemAlloc(nbytes)))
    assert address % 256 == 0
    assert bytes_at(address, nbytes) == b"\xff" * nbytes
    ok(driver.cuMemFree(address))


@pytest.mark.parametrize("nbytes", SIZES)
def test_an_allocation_ends_at_its_guard_page(nbytes: int) -> None:
    address = int(ok(driver.cuMemAlloc(nbytes)))
    allocation = memory.heap.live()[-1]
    end_of_pages = allocation.mapping + allocation.mapped - memory.PAGE
    assert 0 <= end_of_pages - (address + nbytes) < 256
    assert permissions_at(end_of_pages) == permissions_at(allocation.mapping) == "---p"
    assert permissions_at(address) == "rw-p"


def test_poison_and_canary_are_nan_in_every_float_format() -> None:
    address = int(ok(driver.cuMemAlloc(1001)))
    around = bytes_at(address - 64, 64) + bytes_at(address, 1000) + bytes_at(address + 1024 - 16, 16)
    for carrier in (np.float16, np.float32):
        assert np.isnan(np.frombuffer(around, carrier)).all()
    as_bf16 = np.frombuffer(around, np.uint16).astype(np.uint32) << 16
    assert np.isnan(as_bf16.view(np.float32)).all()


def test_poison_survives_the_use_of_other_memory() -> None:
    """Allocations share the poison's pages until they are written."""
    first = upload(np.zeros(100_000, np.uint8))
    second = int(ok(driver.cuMemAlloc(100_000)))
    assert bytes_at(second, 100_000) == b"\xff" * 100_000
    assert bytes_at(first, 100_000) == bytes(100_000)


def test_reserved_memory_takes_none_until_it_is_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    address = int(ok(driver.cuMemAlloc(512 << 20)))
    assert resident() - before < 16 << 20
    ok(driver.cuMemsetD8Async(address, 0, 64 << 20, 0))
    assert 60 << 20 < resident() - before < 96 << 20
    ok(driver.cuMemFree(address))
    assert resident() - before < 16 << 20


def test_a_large_allocation_is_quick() -> None:
    started = time.perf_counter()
    ok(driver.cuMemAlloc(1 << 30))
    assert time.perf_counter() - started < 0.5  # filling it would take longer


@pytest.mark.parametrize("nbytes", [0, -1])
def test_an_allocation_needs_a_size(nbytes: int) -> None:
    assert status(driver.cuMemAlloc(nbytes)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuMemHostAlloc(nbytes, 0)) == "ERROR_INVALID_VALUE"


def test_out_of_memory_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    used = memory.heap.device_bytes
    monkeypatch.setenv("CUTAWAY_CPU_MEMORY", str(used + 10_000))
    assert ok(driver.cuMemGetInfo()) == (10_000, used + 10_000)
    address = ok(driver.cuMemAlloc(6_000))
    assert ok(driver.cuMemGetInfo())[0] == 4_000
    assert status(driver.cuMemAlloc(4_001)) == "ERROR_OUT_OF_MEMORY"
    ok(driver.cuMemAlloc(4_000))
    assert status(driver.cuMemAlloc(1)) == "ERROR_OUT_OF_MEMORY"
    ok(driver.cuMemFree(address))
    ok(driver.cuMemAlloc(6_000))


def test_more_than_the_host_has_is_out_of_memory() -> None:
    assert status(driver.cuMemAlloc(1 << 60)) == "ERROR_OUT_OF_MEMORY"
    free, total = ok(driver.cuMemGetInfo())
    assert 0 < free <= total


def test_freeing_what_is_not_there() -> None:
    address = int(ok(driver.cuMemAlloc(5000)))
    host = int(ok(driver.cuMemHostAlloc(16, 0)))
    for wrong in (address + 256, address - 256, 0x1234, host):
        assert status(driver.cuMemFree(wrong)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuMemFreeHost(address)) == "ERROR_INVALID_VALUE"
    ok(driver.cuMemFree(address))
    assert status(driver.cuMemFree(address)) == "ERROR_INVALID_VALUE"
    ok(driver.cuMemFreeHost(host))
    assert status(driver.cuMemFreeHost(host)) == status(driver.cuMemFreeHost(0)) == "ERROR_INVALID_VALUE"
    ok(driver.cuMemFree(0))  # CUDA accepts a null pointer


def test_leaks_can_be_listed() -> None:
    before = driver.live_allocations()
    address = int(ok(driver.cuMemAlloc(77)))
    assert set(driver.live_allocations()) - set(before) == {(address, 77)}
    ok(driver.cuMemFree(address))
    assert driver.live_allocations() == before


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (0, "offset 0 of an allocation of 1000 bytes"),
        (999, "offset 999 of an allocation of 1000 bytes"),
        (1000, "just past the end of an allocation of 1000 bytes"),
        (1024, "24 bytes past the end of an allocation of 1000 bytes"),
        (1024 + memory.PAGE - 1, f"{24 + memory.PAGE - 1} bytes past the end of an allocation of 1000 bytes"),
        (-1, "1 bytes before the start of an allocation of 1000 bytes"),
    ],
)
def test_an_address_is_told_by_what_lies_there(offset: int, text: str) -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    assert str(driver.find_allocation(address + offset)).startswith(text)
    ok(driver.cuMemFree(address))
    assert text.replace("an allocation", "a freed allocation") in str(driver.find_allocation(address + offset))


def test_an_address_of_nobody() -> None:
    assert driver.find_allocation(16) is None
    assert driver.find_allocation(2**47 - 1) is None


def test_freed_addresses_come_back_in_the_end() -> None:
    first = int(ok(driver.cuMemAlloc(16)))
    ok(driver.cuMemFree(first))
    for _ in range(memory.QUARANTINE_ALLOCATIONS):
        ok(driver.cuMemFree(ok(driver.cuMemAlloc(16))))
    found = driver.find_allocation(first)
    assert found is None or found.allocation.address != first or found.live


@pytest.mark.parametrize("offset", [-1, -200, 1000, 1023])
def test_a_write_beside_an_allocation_is_found_when_it_is_freed(offset: int) -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    ctypes.memset(address + offset, 7, 1)
    assert status(driver.cuMemFree(address)) == "ERROR_ILLEGAL_ADDRESS"
    report = driver.last_report()
    assert report is not None and report.address == address + offset and "allocation of 1000 bytes" in report.text
    assert status(driver.cuMemAlloc(1)) == "ERROR_ILLEGAL_ADDRESS", "the context must stay dead"
    driver.reset_sticky()
    repair(address)
    ok(driver.cuMemFree(address))


def test_a_write_beside_an_allocation_is_found_at_a_synchronisation() -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    stream = ok(driver.cuStreamCreate(0))
    ok(driver.cuStreamSynchronize(stream))
    ctypes.memset(address + 1001, 7, 1)
    assert status(driver.cuStreamSynchronize(stream)) == "ERROR_ILLEGAL_ADDRESS"
    driver.reset_sticky()
    assert status(driver.cuCtxSynchronize()) == "ERROR_ILLEGAL_ADDRESS"
    repair(address)


def test_copies_go_every_way() -> None:
    values = np.arange(1000, dtype=np.int32)
    source, target = upload(values), int(ok(driver.cuMemAlloc(4000)))
    host = int(ok(driver.cuMemHostAlloc(4000, 1)))
    ok(driver.cuMemcpyDtoDAsync(target, source, 4000, 0))
    ok(driver.cuMemcpyDtoHAsync(host, target, 4000, 0))
    assert (np.frombuffer(bytes_at(host, 4000), np.int32) == values).all()
    ok(driver.cuMemcpyHtoDAsync(source + 4, host, 40, 0))
    assert (download(source, 1000, np.int32) == [0, *range(10), *range(11, 1000)]).all()


def test_a_copy_must_lie_in_living_allocations() -> None:
    a, b = int(ok(driver.cuMemAlloc(1000))), int(ok(driver.cuMemAlloc(1000)))
    pinned = int(ok(driver.cuMemHostAlloc(100, 0)))
    host = np.zeros(2000, np.uint8).ctypes.data
    wrong = [
        driver.cuMemcpyHtoDAsync(a, host, 1001, 0),
        driver.cuMemcpyHtoDAsync(a + 999, host, 2, 0),
        driver.cuMemcpyHtoDAsync(a - 1, host, 2, 0),
        driver.cuMemcpyHtoDAsync(0x1000, host, 2, 0),
        driver.cuMemcpyHtoDAsync(a, 0, 2, 0),
        driver.cuMemcpyHtoDAsync(a, b, 2, 0),  # b is no host memory
        driver.cuMemcpyHtoDAsync(a, pinned, 101, 0),
        driver.cuMemcpyDtoHAsync(pinned + 50, a, 51, 0),
        driver.cuMemcpyDtoDAsync(a, b + 1, 1000, 0),
        driver.cuMemcpyDtoDAsync(a, b, -1, 0),
        driver.cuMemsetD8Async(a, 0, 1001, 0),
        driver.cuMemsetD32Async(a, 0, 251, 0),
        driver.cuMemsetD32Async(a + 2, 0, 1, 0),
    ]
    ok(driver.cuMemFree(b))
    wrong += [driver.cuMemcpyDtoDAsync(a, b, 4, 0), driver.cuMemsetD8Async(b, 0, 1, 0)]
    assert {status(answer) for answer in wrong} == {"ERROR_INVALID_VALUE"}
    assert bytes_at(a, 1000) == b"\xff" * 1000
    ok(driver.cuMemcpyHtoDAsync(a, host, 0, 0))


def test_fills() -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    ok(driver.cuMemsetD8Async(address, 3, 1000, 0))
    ok(driver.cuMemsetD32Async(address + 4, 0x01020304, 2, 0))
    assert (download(address, 12, np.uint8) == [3, 3, 3, 3, 4, 3, 2, 1, 4, 3, 2, 1]).all()
    assert (download(address, 1000, np.uint8)[12:] == 3).all()
