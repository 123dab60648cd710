"""Short ways to call the CPU device's driver in tests."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from cuda.bindings.driver import CUresult, CUstreamCaptureMode
from numpy.typing import NDArray

from bindings.cpu import driver
from tests.cpu_device.simt_support import image_of

GLOBAL = CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
THREAD_LOCAL = CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
RELAXED = CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


def ok(answer: tuple[Any, ...]) -> Any:
    """The value, or values, of an answer that must be a success."""
    assert answer[0] == CUresult.CUDA_SUCCESS, answer[0]
    return answer[1] if len(answer) == 2 else answer[1:]


def status(answer: tuple[Any, ...]) -> str:
    """The name of an answer's status, without `CUDA_`; beside a failure there are only Nones."""
    assert not answer[0] or not any(answer[1:])
    return str(answer[0].name).removeprefix("CUDA_")


def upload(values: NDArray) -> int:
    """The address of new device memory with these values."""
    values = np.ascontiguousarray(values)
    address = int(ok(driver.cuMemAlloc(values.nbytes)))
    ok(driver.cuMemcpyHtoDAsync(address, values.ctypes.data, values.nbytes, 0))
    return address


def download(address: int, shape: tuple[int, ...] | int, dtype: Any) -> NDArray:
    """Device memory as a new array."""
    values = np.empty(shape, dtype)
    ok(driver.cuMemcpyDtoHAsync(values.ctypes.data, address, values.nbytes, 0))
    return values


def function(name: str, file: str = "driver_kernels.cu") -> Any:
    """A kernel of `kernels/<file>`, in a module of its own."""
    return ok(driver.cuModuleGetFunction(ok(driver.cuModuleLoadData(image_of(file))), name.encode()))


def repair(address: int) -> None:
    """Put back the canary around an allocation that a test damaged: other tests share the memory."""
    found = driver.find_allocation(address)
    assert found is not None
    for slack in found.allocation.slacks:
        slack.restore()


class Arguments:
    """The values of a launch and the `void*[]` that points to them."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.array = (ctypes.c_void_p * max(len(values), 1))(*map(ctypes.addressof, values))
        self.address = ctypes.addressof(self.array)


def launch(kernel: Any, arguments: Arguments, grid: Any = (1, 1, 1), block: Any = (1, 1, 1), shared: int = 0,
           stream: Any = 0) -> tuple[Any, ...]:  # fmt: skip
    """cuLaunchKernel's answer."""
    answer: tuple[Any, ...] = driver.cuLaunchKernel(
        kernel, *grid, *block, shared, stream, arguments.address if arguments.values else 0, 0
    )
    return answer


def affine(out: int, source: int, factor: float, offset: float, count: int, negate: bool = False) -> Arguments:
    """Arguments of the kernel `affine`: out = factor * source + offset."""
    map_ = (ctypes.c_float * 2)(factor, offset)
    return Arguments(ctypes.c_void_p(out), ctypes.c_void_p(source), map_, ctypes.c_char(negate), ctypes.c_int(count))
