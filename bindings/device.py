"""The device and what it owns: buffers, streams, events, graphs.

Thin objects over the driver's handles, one method a driver call where possible. Lifetimes are explicit: `free()` or
`close()` release at once, `Device.close()` releases all that is left. Kernels: kernel.py; typed views: tensor.py.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindings import architecture, backend, calls
from bindings.calls import driver, nvrtc
from bindings.dtypes import DType, encode
from bindings.errors import CudaError, DeviceError
from bindings.handles import forget_handle, name_handle
from bindings.kernel import KernelLibrary
from bindings.memory import OutOfMemory, memory_map
from bindings.nvrtc import toolchain
from bindings.tensor import Tensor
from bindings.trace import recorder


def _enum(enum_name: str, member: str) -> Any:
    """A member of one of the driver's enums; they come with cuda.bindings and need no GPU."""
    from cuda.bindings import driver as names

    return getattr(getattr(names, enum_name), member)


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """Python collects nothing meanwhile: what it collects may free device memory, and that would end a capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Device:
    """One device and its primary context, current on the thread that opened it.

    Attributes: `kind` ("cuda" or "cpu"), `name`, `arch` (what kernels are compiled for: "sm_90a", "cpu"),
    `driver_version` (of CUDA: 12040 for 12.4), `capability` (90 for 9.0), `dependent_launch` (whether a kernel may
    start before the one ahead of it has ended), `sm_count`, `max_dynamic_smem` (bytes a block may opt in to),
    `total_memory` (bytes), `stream` (its own first one), `kernels` (compiled and loaded once), `why` (why a GPU is not
    used, or "").
    """

    def __init__(self, ordinal: int, chosen: backend.Backend) -> None:
        self.kind, self.why = chosen.kind, chosen.why
        driver.cuInit(0)
        self.driver_version = int(driver.cuDriverGetVersion())
        self.handle = driver.cuDeviceGet(ordinal)
        self.context = driver.cuDevicePrimaryCtxRetain(self.handle)
        driver.cuCtxSetCurrent(self.context)
        self.name = driver.cuDeviceGetName(256, self.handle).split(b"\0")[0].decode()
        self.total_memory = int(driver.cuDeviceTotalMem(self.handle))
        self.sm_count = self.attribute("MULTIPROCESSOR_COUNT")
        self.max_dynamic_smem = self.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        major, minor = self.attribute("COMPUTE_CAPABILITY_MAJOR"), self.attribute("COMPUTE_CAPABILITY_MINOR")
        self.capability = major * 10 + minor
        self.dependent_launch = self.capability >= architecture.HOPPER
        self.arch = self._arch()
        self._buffers: dict[int, Buffer | HostBuffer] = {}
        self.stream = Stream(self)
        self.kernels = KernelLibrary(self)
        self._closed = False
        if recorder.active:
            recorder.note(self._note())

    @classmethod
    def open(cls, kind: str | None = None, ordinal: int = 0) -> Device:
        """Open a device: `auto` (a GPU if there is one, else the CPU device), `cuda` or `cpu`.

        Without `kind`, $CUTAWAY_DEVICE decides. Raises DeviceError with what is missing, CudaError as the driver says.
        """
        chosen = backend.select(kind)
        count = driver_count()
        if not 0 <= ordinal < count:
            raise DeviceError(f"there is no device {ordinal}: this machine has {count}")
        return cls(ordinal, chosen)

    def _arch(self) -> str:
        if self.kind == "cpu":
            return "cpu"
        return architecture.target(self.name, self.capability, nvrtc.nvrtcGetSupportedArchs(), toolchain())

    def _note(self) -> dict[str, Any]:
        """What a trace is told of this device."""
        facts = ("name", "arch", "sm_count", "total_memory", "driver_version")
        return {"kind": "device", "device": {"kind": self.kind, **{fact: getattr(self, fact) for fact in facts}}}

    def attribute(self, name: str) -> int:
        """`CU_DEVICE_ATTRIBUTE_<name>` of this device."""
        member = _enum("CUdevice_attribute", f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(driver.cuDeviceGetAttribute(member, self.handle))

    def memory_info(self) -> tuple[int, int]:
        """(free, total) device memory in bytes."""
        free, total = driver.cuMemGetInfo()
        return int(free), int(total)

    def synchronize(self) -> None:
        """Wait until everything given to this device is done."""
        driver.cuCtxSynchronize()

    def alloc(self, nbytes: int, name: str) -> Buffer:
        """`nbytes` of device memory under a name for errors and traces. Raises OutOfMemory when there is not enough."""
        recorder.tell(buffer=name, nbytes=nbytes)
        try:
            address = int(driver.cuMemAlloc(max(nbytes, 1)))
        except CudaError as error:
            if error.name == OutOfMemory.STATUS:
                raise OutOfMemory(name, nbytes, *self.memory_info()) from error
            raise
        buffer = Buffer(self, address, nbytes, name)
        self._buffers[buffer.address] = buffer
        return buffer

    def alloc_host(self, nbytes: int, name: str) -> HostBuffer:
        """`nbytes` of pinned host memory: what an asynchronous copy needs to be asynchronous."""
        buffer = HostBuffer(self, nbytes, name)
        self._buffers[buffer.address] = buffer
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: DType, name: str) -> Tensor:
        """A new tensor in a buffer of its own; its elements are whatever the memory held."""
        return Tensor(self.alloc(prod(shape) * dtype.itemsize, name), dtype, shape)

    def upload(self, values: NDArray, dtype: DType, name: str) -> Tensor:
        """A new tensor with these host values, rounded to `dtype` unless they are its carrier already."""
        carrier = values if values.dtype == dtype.carrier else encode(values, dtype)
        tensor = self.empty(carrier.shape, dtype, name)
        tensor.upload(carrier)
        return tensor

    def copy_in(self, address: int, source: NDArray, stream: Stream | None = None) -> None:
        """Copy a contiguous host array to `address` and wait, so that `source` may be reused."""
        stream = stream or self.stream
        if recorder.active:
            recorder.tell(bytes=source.nbytes, stream=stream.name)
        driver.cuMemcpyHtoDAsync(address, source.ctypes.data, source.nbytes, stream.handle)
        stream.synchronize()

    def copy_in_async(self, address: int, source: int, nbytes: int, stream: Stream) -> None:
        """Start a copy from pinned host memory; `source` must keep its bytes until the stream has passed it."""
        if recorder.active:
            recorder.tell(bytes=nbytes, stream=stream.name)
        driver.cuMemcpyHtoDAsync(address, source, nbytes, stream.handle)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Start a copy from one device address to another."""
        if recorder.active:
            recorder.tell(bytes=2 * nbytes, stream=stream.name)  # read and written
        driver.cuMemcpyDtoDAsync(target, source, nbytes, stream.handle)

    def copy_out_async(self, target: int, address: int, nbytes: int, stream: Stream) -> None:
        """Start a copy into pinned host memory; its bytes are there once the stream has passed it."""
        if recorder.active:
            recorder.tell(bytes=nbytes, stream=stream.name)
        driver.cuMemcpyDtoHAsync(target, address, nbytes, stream.handle)

    def copy_out(self, target: NDArray, address: int, stream: Stream | None = None) -> None:
        """Copy from `address` into a contiguous host array and wait."""
        stream = stream or self.stream
        if recorder.active:
            recorder.tell(bytes=target.nbytes, stream=stream.name)
        driver.cuMemcpyDtoHAsync(target.ctypes.data, address, target.nbytes, stream.handle)
        stream.synchronize()

    def forget(self, buffer: Buffer | HostBuffer) -> None:
        """Called by `free` of a buffer: the device no longer owns it."""
        self._buffers.pop(buffer.address, None)

    def close(self) -> None:
        """Free every buffer that is left, and release the context. Raises CudaError if that shows a new failure."""
        if self._closed:
            return
        self._closed = True
        was_dead = calls.sticky_errors > 0
        try:
            self._free_all()
        except CudaError:
            for buffer in self._buffers.values():  # a dead context frees nothing; its end takes it all
                memory_map.remove(buffer.address)
            with suppress(CudaError):
                driver.cuDevicePrimaryCtxRelease(self.handle)
            if not was_dead:  # else it was told when it happened
                raise
        else:
            driver.cuDevicePrimaryCtxRelease(self.handle)

    def _free_all(self) -> None:
        self.synchronize()  # an asynchronous failure that nobody waited for shows here
        self.kernels.close()
        for buffer in list(self._buffers.values()):
            buffer.free()
        self.stream.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def driver_count() -> int:
    """How many devices the selected backend has."""
    driver.cuInit(0)
    return int(driver.cuDeviceGetCount())


class Buffer:
    """A named run of device memory, freed explicitly or with its device."""

    def __init__(self, device: Device, address: int, nbytes: int, name: str) -> None:
        self.device, self.address, self.nbytes, self.name = device, address, nbytes, name
        self._freed = False
        memory_map.add(address, nbytes, name)

    def tensor(self, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> Tensor:
        """A typed view that begins `offset` bytes in."""
        return Tensor(self, dtype, shape, offset)

    def fill(self, byte: int, stream: Stream | None = None) -> None:
        """Set every byte."""
        stream = stream or self.device.stream
        if recorder.active:
            recorder.tell(bytes=self.nbytes, stream=stream.name)
        driver.cuMemsetD8Async(self.address, byte, self.nbytes, stream.handle)

    def free(self) -> None:
        """Return the memory. A second call does nothing."""
        if self._freed:
            return
        self._freed = True
        self.device.forget(self)
        recorder.tell(buffer=self.name, nbytes=self.nbytes)
        driver.cuMemFree(self.address)  # while its name is still known: a trace shows it
        memory_map.remove(self.address)


class HostBuffer:
    """Pinned host memory: `numpy()` views it, asynchronous copies read or write it at `address`."""

    def __init__(self, device: Device, nbytes: int, name: str) -> None:
        self.device, self.nbytes, self.name = device, nbytes, name
        recorder.tell(buffer=name, nbytes=nbytes)
        self.address = int(driver.cuMemHostAlloc(max(nbytes, 1), 0))
        self._bytes = (ctypes.c_uint8 * nbytes).from_address(self.address)
        memory_map.add(self.address, nbytes, name)

    def numpy(self, dtype: DType, shape: tuple[int, ...] = (-1,), offset: int = 0) -> NDArray:
        """A writable view; it must not be used after `free()`."""
        count = -1 if shape == (-1,) else prod(shape)
        return np.frombuffer(memoryview(self._bytes), dtype.carrier, count, offset).reshape(shape)

    def free(self) -> None:
        """Return the memory. A second call does nothing."""
        if self.address:
            self.device.forget(self)
            recorder.tell(buffer=self.name, nbytes=self.nbytes)
            driver.cuMemFreeHost(self.address)
            memory_map.remove(self.address)
            self.address = 0


class Stream:
    """An ordered queue of work on the device. `name` is "stream 1" and so on, for traces."""

    _numbers = itertools.count(1)

    def __init__(self, device: Device) -> None:
        self.device, self.name = device, f"stream {next(self._numbers)}"
        self.handle = driver.cuStreamCreate(_enum("CUstream_flags", "CU_STREAM_NON_BLOCKING"))
        name_handle(self.handle, self.name)

    def synchronize(self) -> None:
        """Wait until all work given to this stream is done."""
        driver.cuStreamSynchronize(self.handle)

    def record(self, event: Event) -> None:
        """Mark this point of the stream."""
        driver.cuEventRecord(event.handle, self.handle)
        event.captured = recorder.capturing.get(self.name)

    def wait(self, event: Event) -> None:
        """Later work of this stream starts after `event`. One of a stream that captures lets this one capture, too."""
        driver.cuStreamWaitEvent(self.handle, event.handle, 0)
        if event.captured is not None and event.captured in recorder.capturing.values():
            recorder.capturing[self.name] = event.captured

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record the work given to this stream inside the block into a Graph, instead of running it."""
        graph = Graph()
        mode = _enum("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
        with _garbage_left_alone():
            driver.cuStreamBeginCapture(self.handle, mode)
            recorder.capturing[self.name] = graph.number
            try:
                yield graph
            except BaseException:
                self._abandon_capture()
                raise
            finally:
                _end_of_capture(graph.number)
            graph.instantiate(driver.cuStreamEndCapture(self.handle))

    def _abandon_capture(self) -> None:
        """End a capture whose block failed; the error that ended it is the one to show."""
        with suppress(CudaError):
            driver.cuGraphDestroy(driver.cuStreamEndCapture(self.handle))

    def close(self) -> None:
        """Destroy the stream; work already given to it still completes."""
        driver.cuStreamDestroy(self.handle)
        forget_handle(self.handle)


def _end_of_capture(graph: int) -> None:
    """No stream captures for this graph any more."""
    for name in [name for name, number in recorder.capturing.items() if number == graph]:
        del recorder.capturing[name]


class Event:
    """A point in a stream, and a clock. `captured`: the number of the graph, where that stream was captured then."""

    captured: int | None = None

    def __init__(self, timing: bool = True) -> None:
        flag = "CU_EVENT_DEFAULT" if timing else "CU_EVENT_DISABLE_TIMING"
        self.handle = driver.cuEventCreate(_enum("CUevent_flags", flag))

    def synchronize(self) -> None:
        """Wait for the work before this event."""
        driver.cuEventSynchronize(self.handle)

    def milliseconds_since(self, earlier: Event) -> float:
        """Device time between two recorded events."""
        return float(driver.cuEventElapsedTime(earlier.handle, self.handle))

    def close(self) -> None:
        """Destroy the event."""
        driver.cuEventDestroy(self.handle)


class Graph:
    """Captured work, launched again at the host cost of one call. Arguments stay what they were at capture.

    `number` is 1, 2, … for traces, where the calls that were captured into it carry it, too.
    """

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.number = next(self._numbers)
        self._graph: Any = None
        self._executable: Any = None

    def instantiate(self, graph: Any) -> None:
        """Called at the end of a capture: check the recorded work and make it launchable."""
        self._graph = graph
        recorder.tell(graph=self.number)
        self._executable = driver.cuGraphInstantiate(graph, 0)
        name_handle(graph, f"graph {self.number}")
        name_handle(self._executable, f"graph {self.number}")

    def launch(self, stream: Stream) -> None:
        """Give the whole graph to `stream`."""
        if recorder.active:
            recorder.tell(graph=self.number, stream=stream.name)
        driver.cuGraphLaunch(self._executable, stream.handle)

    def close(self) -> None:
        """Destroy the graph. A second call does nothing."""
        if self._executable is not None:
            driver.cuGraphExecDestroy(self._executable)
            driver.cuGraphDestroy(self._graph)
            forget_handle(self._executable)
            forget_handle(self._graph)
            self._graph = self._executable = None
