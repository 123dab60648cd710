"""The CPU device's driver: the entry points of `cuda.bindings.driver` that the engine uses, without a GPU.

Names, arguments, `(status, *values)` answers, enums and handle types are those of cuda.bindings. What happens is CUDA's
too, at its strictest: what CUDA leaves undefined or finds out late is refused at once. Not in CUDA are `set_schedule`,
`set_streams`, `set_fences`, `set_checks`, `watch_writes`, `watched_writes`, `inspect_thread`, `end_inspection`,
`last_report`, `last_refusal`, `reset_sticky`, `find_allocation` and `live_allocations`.

This file has what belongs to no room: initialisation, the primary context, error texts, and the list of all others.
"""

from __future__ import annotations

import os
from typing import Any

from cuda.bindings.driver import CUcontext, CUdevice, CUresult

from bindings.cpu import attributes, checks, context, executor, fences, leaks
from bindings.cpu.attributes import (
    cuDeviceGet,
    cuDeviceGetAttribute,
    cuDeviceGetCount,
    cuDeviceGetName,
    cuDeviceTotalMem,
)
from bindings.cpu.checks import set_checks
from bindings.cpu.context import (
    INVALID_VALUE,
    PRIMARY_CONTEXT,
    SUCCESS,
    Failure,
    entry_point,
    last_refusal,
    last_report,
    require_driver,
    require_nothing,
    reset_sticky,
    state,
)
from bindings.cpu.events import (
    cuEventCreate,
    cuEventDestroy,
    cuEventElapsedTime,
    cuEventQuery,
    cuEventRecord,
    cuEventSynchronize,
    cuStreamWaitEvent,
)
from bindings.cpu.executor import set_schedule, thread_count
from bindings.cpu.fences import set_fences
from bindings.cpu.graphs import (
    cuGraphDestroy,
    cuGraphExecDestroy,
    cuGraphGetNodes,
    cuGraphInstantiate,
    cuGraphLaunch,
    cuStreamBeginCapture,
    cuStreamEndCapture,
)
from bindings.cpu.host import memory_limit
from bindings.cpu.inspection import end_inspection, inspect_thread
from bindings.cpu.memory import find_allocation, live_allocations
from bindings.cpu.modules import (
    cuFuncGetAttribute,
    cuFuncGetParamInfo,
    cuFuncSetAttribute,
    cuLaunchKernel,
    cuLaunchKernelEx,
    cuModuleGetFunction,
    cuModuleLoadData,
    cuModuleUnload,
)
from bindings.cpu.streams import (
    cuCtxSynchronize,
    cuStreamCreate,
    cuStreamDestroy,
    cuStreamIsCapturing,
    cuStreamQuery,
    cuStreamSynchronize,
    set_streams,
    set_streams_from_environment,
    wait_for_all,
)
from bindings.cpu.transfers import (
    cuMemAlloc,
    cuMemcpyDtoDAsync,
    cuMemcpyDtoHAsync,
    cuMemcpyHtoDAsync,
    cuMemFree,
    cuMemFreeHost,
    cuMemGetInfo,
    cuMemHostAlloc,
    cuMemsetD8Async,
    cuMemsetD32Async,
)
from bindings.cpu.watch import watch_writes, watched_writes
from bindings.errors import CutawayError

__all__ = [
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncGetParamInfo",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphGetNodes",
    "cuGraphInstantiate",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuMemAlloc",
    "cuMemFree",
    "cuMemFreeHost",
    "cuMemGetInfo",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuMemcpyHtoDAsync",
    "cuMemsetD8Async",
    "cuMemsetD32Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture",
    "cuStreamCreate",
    "cuStreamDestroy",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "end_inspection",
    "find_allocation",
    "inspect_thread",
    "last_refusal",
    "last_report",
    "live_allocations",
    "reset_sticky",
    "set_checks",
    "set_fences",
    "set_schedule",
    "set_streams",
    "watch_writes",
    "watched_writes",
]

DRIVER_VERSION = 13000  # 1000 * major + 10 * minor: the CUDA whose manual this follows

# The statuses that this driver answers, in its own words.
ERROR_TEXTS = {
    "CUDA_SUCCESS": "no error",
    "CUDA_ERROR_INVALID_VALUE": "an argument is out of its range",
    "CUDA_ERROR_OUT_OF_MEMORY": "out of memory",
    "CUDA_ERROR_NOT_INITIALIZED": "cuInit was not called",
    "CUDA_ERROR_INVALID_DEVICE": "no such device",
    "CUDA_ERROR_INVALID_IMAGE": "the image is not one that this device can load",
    "CUDA_ERROR_INVALID_CONTEXT": "no valid context is current on this thread",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "the current context was destroyed",
    "CUDA_ERROR_INVALID_HANDLE": "the handle names nothing that lives",
    "CUDA_ERROR_ILLEGAL_STATE": "the object is not in a state that allows this",
    "CUDA_ERROR_NOT_READY": "the work is not done yet",
    "CUDA_ERROR_NOT_FOUND": "the name is not there",
    "CUDA_ERROR_NOT_SUPPORTED": "this is not offered here",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel touched memory that is not its own",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "a kernel touched an address that is not a multiple of the access's size",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "a kernel came upon an illegal instruction",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "a kernel used up its stack",
    "CUDA_ERROR_ASSERT": "an assertion in a kernel failed",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel failed",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "this may not be done while a stream captures",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "an earlier error broke the capture",
    "CUDA_ERROR_STREAM_CAPTURE_MERGE": "this would join two captures",
    "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED": "the capture was begun in another stream",
    "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": "the capture forked into a stream that never joined again",
    "CUDA_ERROR_STREAM_CAPTURE_ISOLATION": "the capture would wait for work outside of it",
    "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT": "the default stream would wait for a stream that captures",
    "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD": "the capture was begun by another thread",
    "CUDA_ERROR_CAPTURED_EVENT": "the event was last recorded in a capture",
}


def schedule_from_environment() -> tuple[str, int] | None:
    """CUTAWAY_CPU_SCHEDULE, `greedy` or `greedy:7`, as (order, seed). Raises CutawayError on another word."""
    text = os.environ.get("CUTAWAY_CPU_SCHEDULE", "")
    if not text:
        return None
    name, _, seed = text.partition(":")
    if name not in executor.ORDERS or (seed and not seed.isdecimal()) or text.endswith(":"):
        orders = ", ".join(executor.ORDERS)
        raise CutawayError(f"CUTAWAY_CPU_SCHEDULE is {text!r}; it must be one of {orders}, and may add `:SEED`")
    return name, int(seed or 0)


@entry_point(needs=require_nothing)
def cuInit(Flags: int) -> None:
    """(status,). Raises CutawayError if one of the CUTAWAY_CPU_… variables has a value that it can't have."""
    if Flags:
        raise Failure(INVALID_VALUE)
    if not state.initialised:
        thread_count()
        memory_limit()
        fences.set_fences_from_environment()
        checks.set_checks_from_environment()
        schedule = schedule_from_environment()
        if schedule is not None:
            set_schedule(*schedule)
        set_streams_from_environment()
        leaks.set_leaks_from_environment()
        state.initialised = True


@entry_point(values=1, needs=require_nothing)
def cuDriverGetVersion() -> int:
    """(status, 1000 * major + 10 * minor)."""
    return DRIVER_VERSION


@entry_point(values=1, needs=require_nothing)
def cuGetErrorName(error: CUresult) -> bytes:
    """(status, `CUDA_ERROR_…`)."""
    return _status(error).name.encode()


@entry_point(values=1, needs=require_nothing)
def cuGetErrorString(error: CUresult) -> bytes:
    """(status, text): one line in this driver's words; of a status that it never answers, CUDA's name."""
    name = _status(error).name
    return ERROR_TEXTS.get(name, name).encode()


def _status(error: CUresult) -> CUresult:
    try:
        return CUresult(error)
    except ValueError as unknown:
        raise Failure(INVALID_VALUE) from unknown


@entry_point(values=1, needs=require_driver)
def cuDevicePrimaryCtxRetain(dev: Any) -> CUcontext:
    """(status, context). It lives until it is released as often as it was retained."""
    attributes.require_device(dev)
    state.retained += 1
    return CUcontext(PRIMARY_CONTEXT)


@entry_point(needs=require_driver)
def cuDevicePrimaryCtxRelease(dev: Any) -> None:
    """(status,). The last release frees memory, streams, events, graphs and modules, and forgets a fault."""
    attributes.require_device(dev)
    if not state.retained:
        raise Failure(CUresult.CUDA_ERROR_INVALID_CONTEXT)
    if state.retained == 1:
        _end_context()
    else:
        state.retained -= 1


def _end_context() -> None:
    try:
        if state.sticky is SUCCESS:
            wait_for_all()
        leaks.report()
    finally:
        for forget in context.on_context_end:
            forget()
        state.retained, state.sticky = 0, SUCCESS


@entry_point(needs=require_driver)
def cuCtxSetCurrent(ctx: Any) -> None:
    """(status,). Current on the calling thread only; 0 or a null handle unbinds."""
    handle = int(ctx) if ctx is not None else 0
    if handle and (handle != PRIMARY_CONTEXT or not state.retained):
        raise Failure(CUresult.CUDA_ERROR_INVALID_CONTEXT)
    context.set_current_context(handle)


@entry_point(values=1, needs=require_driver)
def cuCtxGetCurrent() -> CUcontext:
    """(status, context), null if none is current on this thread."""
    return CUcontext(context.current_context())


@entry_point(values=1)
def cuCtxGetDevice() -> CUdevice:
    """(status, device) of the current context."""
    return CUdevice(0)
