"""Every test here has a living, current context of the CPU device, and leaves none of its settings behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bindings.cpu import driver
from tests.cpu_device.driver.support import ok


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    ok(driver.cuInit(0))
    before = ok(driver.cuCtxGetCurrent())
    ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
    yield
    driver.set_streams("eager")
    driver.reset_sticky()
    driver.set_fences("sync")
    ok(driver.cuDevicePrimaryCtxRelease(0))
    ok(driver.cuCtxSetCurrent(before))
