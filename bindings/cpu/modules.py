"""Modules, their functions, and launches.

A launch is held to CUDA's limits before it runs. CUDA_ERROR_INVALID_VALUE meets a grid, a block or shared memory beyond
them, and shared memory above 48 KiB that was not asked for with cuFuncSetAttribute; `last_refusal` says which.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from cuda.bindings.driver import (
    CUfunction,
    CUfunction_attribute,
    CUlaunchAttributeID,
    CUlaunchConfig,
    CUmodule,
    CUresult,
)

from bindings.cache_directory import CacheError
from bindings.cpu import attributes, checks, executor, watch
from bindings.cpu.context import (
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_SUPPORTED,
    Failure,
    Table,
    entry_point,
    on_context_end,
    state,
)
from bindings.cpu.executor import KernelInfo
from bindings.cpu.memory import blame
from bindings.cpu.operations import Operation
from bindings.cpu.streams import require_safe, submit, wait_for_all
from bindings.errors import CompileError, CutawayError
from bindings.launch_limits import Dim3, LaunchLimits


@dataclass(eq=False)
class Function:
    """A kernel of a loaded module, and the most dynamic shared memory that a launch of it may ask for."""

    kernel: KernelInfo
    module: LoadedModule
    max_dynamic_shared: int


@dataclass(eq=False)
class LoadedModule:
    """What the executor loaded, until it is unloaded, and the function handles given out for it."""

    loaded: Any
    functions: dict[str, Any] = field(default_factory=dict)
    is_open: bool = True

    def unload(self) -> None:
        """Drop the code. Graphs that recorded its kernels can't be launched any more."""
        self.is_open = False
        state.epoch += 1
        self.loaded.close()


@dataclass(eq=False)
class KernelLaunch(Operation):
    """One launch. `parameters` is the address of a `void*[]`, the caller's until `keep` copies what it points to."""

    what = "kernel"
    function: Function
    grid: Dim3
    block: Dim3
    shared_bytes: int
    parameters: int
    _kept: Any = None

    @property
    def name(self) -> str:
        return self.function.kernel.name

    def check(self) -> None:
        if not self.function.module.is_open:
            raise Failure(INVALID_HANDLE)

    def keep(self) -> None:
        layout = self.function.kernel.params
        values = ctypes.create_string_buffer(sum(layout[-1]) if layout else 0)
        start = ctypes.addressof(values)
        for source, (offset, size) in zip(_pointers(self.parameters, len(layout)), layout, strict=True):
            ctypes.memmove(start + offset, source, size)
        addresses = (ctypes.c_void_p * len(layout))(*(start + offset for offset, _ in layout))
        self._kept = (values, addresses)
        self.parameters = ctypes.addressof(addresses)

    def run(self) -> None:
        kernel = self.function.kernel
        report = executor.launch(kernel, self.grid, self.block, self.shared_bytes, self.parameters)
        watch.after_launch(kernel)
        if not kernel.loaded.checked:
            checks.assume_all_written()
        if report is not None:
            raise blame(report)


def _pointers(address: int, count: int) -> list[int]:
    """The pointers of a `void*[count]`; those of no array at all are null."""
    return list((ctypes.c_size_t * count).from_address(address)) if address else [0] * count


def _require_arguments(kernel: KernelInfo, address: int) -> None:
    """Fail the call if an argument is missing: it would be read from address 0."""
    pointers = _pointers(address, len(kernel.params))
    if 0 in pointers:
        missing = f"the pointer to argument {pointers.index(0)} is null"
        raise Failure(INVALID_VALUE, f"{kernel.name} takes {len(pointers)} arguments; {missing}")


modules: Table[LoadedModule] = Table(CUmodule, "module")
functions: Table[Function] = Table(CUfunction)


def _unload_all() -> None:
    for module in modules:
        module.unload()


on_context_end.insert(0, _unload_all)  # while the table still has them


@entry_point(values=1, needs=require_safe)
def cuModuleLoadData(image: bytes) -> CUmodule:
    """(status, module) of what nvrtcGetCUBIN gave.

    Raises CompileError if the host has no compiler for the runtime, CacheError if there is no room for it.
    """
    try:
        return modules.add(LoadedModule(executor.load_module(bytes(image))))
    except (CompileError, CacheError):
        raise
    except CutawayError as error:
        raise Failure(CUresult.CUDA_ERROR_INVALID_IMAGE) from error


@entry_point(needs=require_safe)
def cuModuleUnload(hmod: Any) -> None:
    """(status,). Waits for the device. The handles of its functions die with it."""
    module = modules.get(hmod)
    wait_for_all()
    modules.remove(hmod)
    for handle in module.functions.values():
        functions.remove(handle)
    module.unload()


@entry_point(values=1)
def cuModuleGetFunction(hmod: Any, name: bytes) -> CUfunction:
    """(status, function)."""
    module = modules.get(hmod)
    key = name.decode()
    kernel = module.loaded.kernels.get(key)
    if kernel is None:
        raise Failure(CUresult.CUDA_ERROR_NOT_FOUND)
    if key not in module.functions:
        dynamic = attributes.SHARED_PER_BLOCK - kernel.static_shared_bytes
        module.functions[key] = functions.add(Function(kernel, module, max(dynamic, 0)))
    return module.functions[key]


@entry_point(values=1)
def cuFuncGetAttribute(attrib: CUfunction_attribute, hfunc: Any) -> int:
    """(status, value). Registers and local memory are the host compiler's business and read 0."""
    function = functions.get(hfunc)
    names = CUfunction_attribute
    known = {
        names.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: function.kernel.max_threads,
        names.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: function.kernel.static_shared_bytes,
        names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: function.max_dynamic_shared,
        names.CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: 0,
        names.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: 0,
        names.CU_FUNC_ATTRIBUTE_NUM_REGS: 0,
        names.CU_FUNC_ATTRIBUTE_PTX_VERSION: attributes.COMPUTE_CAPABILITY,
        names.CU_FUNC_ATTRIBUTE_BINARY_VERSION: attributes.COMPUTE_CAPABILITY,
    }
    if attrib not in known:
        raise Failure(INVALID_VALUE)
    return known[attrib]


@entry_point()
def cuFuncSetAttribute(hfunc: Any, attrib: CUfunction_attribute, value: int) -> None:
    """(status,). Dynamic shared memory is the only attribute that can be set."""
    function = functions.get(hfunc)
    if attrib != CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        raise Failure(INVALID_VALUE)
    if not 0 <= value <= attributes.SHARED_PER_BLOCK_OPTIN - function.kernel.static_shared_bytes:
        raise Failure(INVALID_VALUE)
    function.max_dynamic_shared = value


@entry_point(values=2)
def cuFuncGetParamInfo(func: Any, paramIndex: int) -> tuple[int, int]:
    """(status, offset, size) in bytes; CUDA_ERROR_INVALID_VALUE beyond the last parameter."""
    layout = functions.get(func).kernel.params
    if not 0 <= paramIndex < len(layout):
        raise Failure(INVALID_VALUE)
    return layout[paramIndex]


def _why_refused(function: Function, grid: Dim3, block: Dim3, shared: int) -> str:
    """What is beyond its limit in this launch; "" if nothing is."""
    max_threads = min(function.kernel.max_threads, attributes.MAX_THREADS)
    limits = LaunchLimits(attributes.MAX_GRID, attributes.MAX_BLOCK, max_threads)
    if not 0 <= shared <= function.max_dynamic_shared:
        static, most = function.kernel.static_shared_bytes, attributes.SHARED_PER_BLOCK_OPTIN
        return (
            f"{shared} bytes of dynamic shared memory beside {static} static ones; {function.max_dynamic_shared} are "
            f"allowed, and cuFuncSetAttribute may allow {most - static}"
        )
    return limits.broken_by(grid, block)


def _launch(function: Function, grid: Dim3, block: Dim3, shared: int, stream: Any, parameters: int, extra: int) -> None:
    why = "`extra` is not offered: pass the arguments by kernelParams" if extra else ""
    why = why or _why_refused(function, grid, block, shared)
    if why:
        raise Failure(INVALID_VALUE, f"{function.kernel.name}: {why}")
    _require_arguments(function.kernel, parameters)
    submit(stream, KernelLaunch(function, grid, block, shared, parameters))


@entry_point()
def cuLaunchKernel(
    f: Any, gridDimX: int, gridDimY: int, gridDimZ: int, blockDimX: int, blockDimY: int, blockDimZ: int,
    sharedMemBytes: int, hStream: Any, kernelParams: int, extra: int,
) -> None:  # fmt: skip
    """(status,). `kernelParams` is the address of a `void*[]`; `extra` must be 0."""
    grid, block = (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ)
    _launch(functions.get(f), grid, block, sharedMemBytes, hStream, int(kernelParams or 0), int(extra or 0))


def _check_attributes(config: CUlaunchConfig) -> None:
    """Fail the call on a launch attribute that would change what the kernel may do.

    Programmatic serialisation lets a kernel start early, which one after the other never is.
    """
    ids = CUlaunchAttributeID
    for attribute in config.attrs[: config.numAttrs]:
        cluster = attribute.value.clusterDim
        harmless = attribute.id in (
            ids.CU_LAUNCH_ATTRIBUTE_IGNORE,
            ids.CU_LAUNCH_ATTRIBUTE_PRIORITY,
            ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        )
        is_cluster = attribute.id == ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        if not harmless and not (is_cluster and (cluster.x, cluster.y, cluster.z) == (1, 1, 1)):
            raise Failure(NOT_SUPPORTED)


@entry_point()
def cuLaunchKernelEx(config: CUlaunchConfig, f: Any, kernelParams: int, extra: int) -> None:
    """(status,). Clusters and cooperative launches are not offered."""
    _check_attributes(config)
    grid = (config.gridDimX, config.gridDimY, config.gridDimZ)
    block = (config.blockDimX, config.blockDimY, config.blockDimZ)
    _launch(
        functions.get(f), grid, block, config.sharedMemBytes, config.hStream, int(kernelParams or 0), int(extra or 0)
    )
