"""What the CPU device says of itself: the limits of an H100, the host's processor and memory."""

from __future__ import annotations

from typing import Any

from cuda.bindings.driver import CUdevice, CUdevice_attribute, CUresult

from bindings.cpu.context import INVALID_VALUE, Failure, entry_point, require_driver
from bindings.cpu.executor import thread_count
from bindings.cpu.host import memory_limit, processor_name

COMPUTE_CAPABILITY = 90
MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
WARP = 32
SHARED_PER_BLOCK = 48 << 10
SHARED_PER_BLOCK_OPTIN = 227 << 10

_A = CUdevice_attribute

# Those not listed are features that the device lacks, or has none to speak of: they read 0.
_VALUES = {
    _A.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: COMPUTE_CAPABILITY // 10,
    _A.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: COMPUTE_CAPABILITY % 10,
    _A.CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: MAX_THREADS,
    _A.CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: MAX_BLOCK[0],
    _A.CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: MAX_BLOCK[1],
    _A.CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: MAX_BLOCK[2],
    _A.CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: MAX_GRID[0],
    _A.CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: MAX_GRID[1],
    _A.CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: MAX_GRID[2],
    _A.CU_DEVICE_ATTRIBUTE_WARP_SIZE: WARP,
    _A.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: SHARED_PER_BLOCK,
    _A.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: SHARED_PER_BLOCK_OPTIN,
    _A.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: 228 << 10,
    _A.CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: 1 << 10,
    _A.CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: 65536,
    _A.CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: 65536,
    _A.CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: 65536,
    # A worker thread runs one block at a time.
    _A.CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: 1,
    _A.CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: MAX_THREADS,
    _A.CU_DEVICE_ATTRIBUTE_INTEGRATED: 1,
    _A.CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: 1,
    _A.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: 1,
    _A.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS: 1,
    _A.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES: 1,
}


def require_device(device: Any) -> None:
    """Fail the call on any device but the one there is."""
    if int(device) != 0:
        raise Failure(CUresult.CUDA_ERROR_INVALID_DEVICE)


def device_name() -> str:
    """As `CPU device (Intel Xeon Processor, 2 threads)`."""
    return f"CPU device ({processor_name()}, {thread_count()} threads)"


@entry_point(values=1, needs=require_driver)
def cuDeviceGetCount() -> int:
    """(status, 1)."""
    return 1


@entry_point(values=1, needs=require_driver)
def cuDeviceGet(ordinal: int) -> CUdevice:
    """(status, device)."""
    require_device(ordinal)
    return CUdevice(0)


@entry_point(values=1, needs=require_driver)
def cuDeviceGetName(length: int, dev: Any) -> bytes:
    """(status, name), cut or filled with zeros to `length` bytes; the last is always zero."""
    require_device(dev)
    if length <= 0:
        raise Failure(INVALID_VALUE)
    return device_name().encode()[: length - 1].ljust(length, b"\0")


@entry_point(values=1, needs=require_driver)
def cuDeviceGetAttribute(attrib: CUdevice_attribute, dev: Any) -> int:
    """(status, value)."""
    require_device(dev)
    if attrib == _A.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return thread_count()
    if attrib not in list(_A) or attrib == _A.CU_DEVICE_ATTRIBUTE_MAX:
        raise Failure(INVALID_VALUE)
    return _VALUES.get(attrib, 0)


@entry_point(values=1, needs=require_driver)
def cuDeviceTotalMem(dev: Any) -> int:
    """(status, bytes): the host's memory, or CUTAWAY_CPU_MEMORY."""
    require_device(dev)
    return memory_limit().total
