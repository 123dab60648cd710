"""Asking NVIDIA's libraries about themselves one by one, whichever device this process would choose: for the doctor.

A process that asked must not run a model afterwards: it has settled on NVIDIA's libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bindings import backend
from bindings.calls import driver, nvrtc
from bindings.cublas import Blas
from bindings.cuda_headers import cuda_headers
from bindings.device import Device
from bindings.errors import CudaError, DeviceError


@dataclass(frozen=True)
class Gpu:
    """One GPU: `capability` is (major, minor); `free` bytes are None when they can't be asked for, `why` says why."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    total: int
    free: int | None
    why: str


@contextmanager
def nvidia() -> Iterator[None]:
    """Inside, calls go to NVIDIA's libraries, also where they are too old or have no GPU.

    Raises DeviceError for a library that is not there, or has not the function asked for.
    """
    from cuda.pathfinder import DynamicLibNotFoundError

    backend.select_nvidia()
    try:
        yield
    except (DynamicLibNotFoundError, RuntimeError, ImportError, OSError) as error:
        raise DeviceError((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def loaded_library(stem: str) -> str:
    """The path of the loaded library `lib<stem>.so…`, or an empty string."""
    mapped = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    paths = {fields[5] for fields in mapped if len(fields) == 6}
    return next((path for path in sorted(paths) if Path(path).name.startswith(f"lib{stem}.so")), "")


def driver_version() -> int:
    """The newest CUDA version that the driver supports, e.g. 13000; 0 where it is too old to say.

    Raises DeviceError when there is no driver.
    """
    version = backend.driver_version()
    if version is None:
        raise DeviceError(backend.NO_DRIVER.reason)
    return version


def gpus() -> list[Gpu]:
    """Every GPU that this process may use. Raises DeviceError and CudaError as the driver says."""
    with nvidia():
        driver.cuInit(0)
        return [_describe(ordinal) for ordinal in range(int(driver.cuDeviceGetCount()))]


def _describe(ordinal: int) -> Gpu:
    from cuda.bindings.driver import CUdevice_attribute as Attribute

    handle = driver.cuDeviceGet(ordinal)
    name = driver.cuDeviceGetName(256, handle).split(b"\0")[0].decode(errors="replace")
    major = int(driver.cuDeviceGetAttribute(Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle))
    minor = int(driver.cuDeviceGetAttribute(Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle))
    total = int(driver.cuDeviceTotalMem(handle))
    try:
        context = driver.cuDevicePrimaryCtxRetain(handle)
        driver.cuCtxSetCurrent(context)
        free = int(driver.cuMemGetInfo()[0])
        driver.cuDevicePrimaryCtxRelease(handle)
    except CudaError as error:  # its memory is full, or it belongs to another process alone
        return Gpu(ordinal, name, (major, minor), total, None, str(error))
    return Gpu(ordinal, name, (major, minor), total, free, "")


def nvrtc_version() -> tuple[int, int]:
    """NVRTC's version. Raises DeviceError when it is not there."""
    with nvidia():
        major, minor = nvrtc.nvrtcVersion()
    return int(major), int(minor)


def try_nvrtc(arch: str) -> None:
    """Compile one line that includes CUDA's headers for `arch`. Raises CudaError or CompileError when it fails."""
    source = b'#include <cuda_bf16.h>\nextern "C" __global__ void one(__nv_bfloat16* x) { *x = __float2bfloat16(1); }\n'
    options = [f"--include-path={cuda_headers()}".encode(), f"--gpu-architecture={arch}".encode(), b"--std=c++17"]
    with nvidia():
        program = nvrtc.nvrtcCreateProgram(source, b"one.cu", 0, None, None)
        try:
            nvrtc.nvrtcCompileProgram(program, len(options), options)
        finally:
            nvrtc.nvrtcDestroyProgram(program)


def cublas_version() -> int:
    """cuBLAS's version from a handle on the first GPU, e.g. 130100. Raises DeviceError when it is not there."""
    with nvidia(), Device.open("cuda") as device:
        blas = Blas(device, device.stream)
        try:
            return blas.version
        finally:
            blas.close()
