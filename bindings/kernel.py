"""A compiled kernel and its launch.

A launch hands the driver an array of pointers, one to each argument's value. That array and the memory for the values
are made once; a launch packs the values in place. The driver copies them before it returns (also while a graph is
captured), so they may be overwritten at once.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bindings import calls
from bindings.calls import driver
from bindings.dtypes import F32, I32, I64, U32, U64, DType
from bindings.errors import CudaError, CutawayError
from bindings.handles import forget_handle, name_handle
from bindings.launch_limits import Dim3, LaunchLimits
from bindings.nvrtc import KERNEL_SOURCES, CompiledKernel, compile_kernel
from bindings.spelled import Spelled, spelled
from bindings.toolkit import PARAM_INFO
from bindings.trace import recorder

if TYPE_CHECKING:
    from bindings.device import Device, Stream

Defines = Mapping[str, "int | str"]
Constants = tuple[tuple[str, "int | str"], ...]  # the same, sorted: a key

# A kernel parameter: its name, and the type of a scalar, or None for a pointer.
Parameter = tuple[str, "DType | None"]

# Of each type: its format for `struct`, and what an argument of it must be.
_FORMATS: dict[DType | None, tuple[str, str]] = {
    None: ("P", "an address"),
    F32: ("f", "a float32"),
    I32: ("i", "an int32"),
    I64: ("q", "an int64"),
    U32: ("I", "a uint32"),
    U64: ("Q", "a uint64"),
}

# A kernel that wants more shared memory than this, static and dynamic together, must say so before it is launched.
DEFAULT_SMEM = 48 * 1024


class Module:
    """A loaded image (a cubin; on the CPU device, a shared object)."""

    def __init__(self, device: Device, image: bytes, name: str, defines: Defines) -> None:
        self.device, self.name, self.defines, self._image = device, name, dict(defines), image
        self.handle = driver.cuModuleLoadData(image)
        name_handle(self.handle, name)

    def function(self, entry: str) -> Any:
        """The handle of an `extern "C" __global__` function. Raises CudaError when there is none of that name."""
        return driver.cuModuleGetFunction(self.handle, entry.encode())

    def close(self) -> None:
        """Unload the module; its kernels must not be launched again."""
        driver.cuModuleUnload(self.handle)
        forget_handle(self.handle)


class Kernel:
    """A function of a module with memory prepared for its arguments.

    `parameters` are (name, scalar type or None for a pointer) in the kernel's own order; they are compared with what
    the compiler recorded, because a wrong count or size is a crash inside the driver (one of before CUDA 12.4 does not
    say). Raises CutawayError when they differ.
    Attributes: `registers`, `static_smem`, `local_bytes` (spilled or indexed arrays) and `max_threads` of the function.
    """

    def __init__(self, module: Module, entry: str, parameters: Sequence[Parameter]) -> None:
        self.module, self.entry, self.parameters = module, entry, list(parameters)
        self.handle = module.function(entry)
        name_handle(self.handle, entry)
        formats = [_FORMATS[dtype][0] for _, dtype in parameters]
        self._check_layout([struct.calcsize(one) for one in formats])
        self._prepare_arguments(formats)
        self.registers = self._attribute("NUM_REGS")
        self.static_smem = self._attribute("SHARED_SIZE_BYTES")
        self.local_bytes = self._attribute("LOCAL_SIZE_BYTES")
        self.max_threads = self._attribute("MAX_THREADS_PER_BLOCK")
        self._dynamic_smem = DEFAULT_SMEM - self.static_smem
        self._configs: dict[tuple[Any, ...], Any] = {}

    def _prepare_arguments(self, formats: list[str]) -> None:
        """Memory for the values, one after the other with native alignment, and the array of pointers to them."""
        self._packed = struct.Struct("".join(formats))
        self._values = ctypes.create_string_buffer(max(self._packed.size, 1))
        ends = [struct.calcsize("".join(formats[: i + 1])) for i in range(len(formats))]
        offsets = [end - struct.calcsize(one) for end, one in zip(ends, formats, strict=True)]
        start = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * len(offsets))(*(start + offset for offset in offsets))
        self._pointers_address = ctypes.addressof(self._pointers)

    def _attribute(self, name: str) -> int:
        from cuda.bindings.driver import CUfunction_attribute

        member = getattr(CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
        return int(driver.cuFuncGetAttribute(member, self.handle))

    def _check_layout(self, sizes: list[int]) -> None:
        if self.module.device.driver_version < PARAM_INFO:
            return
        compiled: list[int] = []
        while True:
            try:
                compiled.append(int(driver.cuFuncGetParamInfo(self.handle, len(compiled))[1]))
            except CudaError:  # CUDA_ERROR_INVALID_VALUE is how the API says that there are no more
                break
        if compiled != sizes:
            raise CutawayError(
                f"{self.entry}: the spec has {len(sizes)} parameters of {sizes} bytes, "
                f"the compiled kernel {len(compiled)} of {compiled}"
            )

    def _allow_dynamic_smem(self, nbytes: int) -> None:
        from cuda.bindings.driver import CUfunction_attribute

        limit = self.module.device.max_dynamic_smem
        if nbytes + self.static_smem > limit:
            needs = f"{nbytes + self.static_smem} bytes of shared memory"
            raise CutawayError(f"{self.entry} needs {needs}; a block here may have {limit}")
        member = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.cuFuncSetAttribute(self.handle, member, nbytes)
        self._dynamic_smem = nbytes

    def launch(
        self,
        stream: Stream,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int | float],
        smem: int = 0,
        dependent: bool = False,
    ) -> None:
        """Launch on `stream`. `arguments` in kernel order: addresses as ints, scalars as numbers.

        `smem` is dynamic shared memory in bytes; `dependent` lets the kernel start before the one before it has ended
        (programmatic dependent launch: the kernel itself must wait before it reads what that one writes). Where the
        device cannot do that, the kernel starts after the one before it, as any other.
        Raises CutawayError for a wrong number or type of arguments and for a geometry beyond the device's limits.
        """
        try:
            self._packed.pack_into(self._values, 0, *arguments)
        except (struct.error, OverflowError) as error:
            raise CutawayError(f"{self.entry} {self._wrong_argument(arguments)}") from error
        if smem > self._dynamic_smem:
            with recorder.later():
                self._allow_dynamic_smem(smem)
        calls.last_launch = self.entry
        if recorder.active:
            key = (self, stream.name, grid, block, self._values.raw, smem)  # bits: 0.0 and -0.0 are equal
            recorder.tell(**spelled(key, lambda: self._detail(stream, grid, block, arguments, smem)))
        try:
            if dependent and self.module.device.dependent_launch:
                config = self._dependent_config(grid, block, smem, stream)
                driver.cuLaunchKernelEx(config, self.handle, self._pointers_address, 0)
            else:
                driver.cuLaunchKernel(self.handle, *grid, *block, smem, stream.handle, self._pointers_address, 0)
        except (CudaError, OverflowError) as error:  # OverflowError: NVIDIA's binding takes no negative size
            why = self._limits().broken_by(grid, block)
            why = why or ("" if smem >= 0 else f"{smem} bytes of dynamic shared memory; it must be 0 or more")
            if why:
                raise CutawayError(f"{self.entry}: {why}") from error
            raise

    def _wrong_argument(self, arguments: Sequence[int | float]) -> str:
        """What is wrong with arguments that can't be packed."""
        if len(arguments) != len(self.parameters):
            names = ", ".join(name for name, _ in self.parameters)
            return f"takes {len(self.parameters)} arguments ({names}), not {len(arguments)}"
        for (name, dtype), value in zip(self.parameters, arguments, strict=True):
            code, what = _FORMATS[dtype]
            try:
                struct.pack(code, value)
            except (struct.error, OverflowError):
                return f"takes {what} as {name}, not {value!r}"
        return f"takes other arguments than {list(arguments)}"

    def _limits(self) -> LaunchLimits:
        """What a launch may ask for here."""

        def most(what: str) -> Dim3:
            x, y, z = (self.module.device.attribute(f"MAX_{what}_DIM_{axis}") for axis in "XYZ")
            return x, y, z

        return LaunchLimits(most("GRID"), most("BLOCK"), self.max_threads)

    def _dependent_config(self, grid: tuple[int, ...], block: tuple[int, ...], smem: int, stream: Stream) -> Any:
        """The launch configuration for this geometry, made once: it costs more than the launch itself."""
        key = (grid, block, smem, int(stream.handle))
        if key not in self._configs:
            self._configs[key] = _dependent_config(grid, block, smem, stream)
        return self._configs[key]

    def _detail(
        self, stream: Stream, grid: Dim3, block: Dim3, arguments: Sequence[int | float], smem: int
    ) -> dict[str, Any]:
        """What a trace tells of a launch. `smem` is shared memory of both kinds."""
        named = zip(self.parameters, arguments, strict=True)
        return {
            "kernel": self.entry,
            "source": self.module.name,
            "defines": Spelled(self.module.defines),
            "params": Spelled((name, calls.spell(value)) for (name, _), value in named),
            "grid": list(grid),
            "block": list(block),
            "smem": smem + self.static_smem,
            "registers": self.registers,
            "stream": stream.name,
        }


def _dependent_config(grid: tuple[int, ...], block: tuple[int, ...], smem: int, stream: Stream) -> Any:
    """A launch configuration with the programmatic-stream-serialization attribute set."""
    from cuda.bindings import driver as names

    attribute = names.CUlaunchAttribute()
    attribute.id = names.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    config = names.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = block
    config.sharedMemBytes, config.hStream = smem, stream.handle
    config.attrs, config.numAttrs = [attribute], 1
    return config


_sources = KERNEL_SOURCES


def take_kernels_from(folder: Path) -> None:
    """Devices that this process opens from now on compile the `.cu` files of `folder`, a copy of cuda_src with an edit.

    Raises CutawayError when that cannot be one.
    """
    global _sources
    if not (folder / "include").is_dir():
        raise CutawayError(f"{folder} holds no kernels: it must be a copy of cuda_src, with its include folder")
    _sources = folder.resolve()


class KernelLibrary:
    """The kernels of one device: compiled (or read from the cache), loaded and prepared once each.

    `root` is the source tree that they come from; None: cuda_src, or what `take_kernels_from` put in its place.
    """

    def __init__(self, device: Device, root: Path | None = None) -> None:
        self._device, self._root = device, root or _sources
        self._modules: dict[tuple[str, Constants], Module] = {}
        self._kernels: dict[tuple[str, str, Constants], Kernel] = {}

    def get(self, source: str, entry: str, defines: Defines, parameters: Sequence[Parameter]) -> Kernel:
        """The kernel `entry` of `cuda_src/<source>` specialised by `defines`; compiled at its first use."""
        constants = tuple(sorted(defines.items()))
        kernel = self._kernels.get((source, entry, constants))
        if kernel is None:
            kernel = Kernel(self._module(source, constants), entry, parameters)
            self._kernels[source, entry, constants] = kernel
        return kernel

    def _module(self, source: str, constants: Constants) -> Module:
        if (source, constants) not in self._modules:
            compiled = self._compile(source, constants)
            self._modules[source, constants] = Module(self._device, compiled.image, source, dict(constants))
        return self._modules[source, constants]

    def _compile(self, source: str, constants: Constants) -> CompiledKernel:
        path = self._root / source
        if not path.is_file():
            raise CutawayError(f"there is no kernel source {path}")
        return compile_kernel(path, dict(constants), self._device.arch, self._root)

    def precompile(self, wanted: Sequence[tuple[str, Defines]], progress: Callable[[int, int], None]) -> None:
        """Fill the cache with these (source, defines) on all cores; `progress(done, total)` after each one."""
        jobs = list({(source, tuple(sorted(defines.items()))) for source, defines in wanted})
        progress(0, len(jobs))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiling = [pool.submit(self._compile, *job) for job in jobs]
            try:
                for done, job in enumerate(as_completed(compiling), start=1):
                    job.result()
                    progress(done, len(jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def close(self) -> None:
        """Unload every module."""
        for module in self._modules.values():
            module.close()
        self._modules.clear()
        self._kernels.clear()
