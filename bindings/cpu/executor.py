"""Runs compiled kernels on the CPU: loads modules, launches grids, reports what went wrong in them.

The work is done by the runtime library (`runtime/`), which is compiled on first use and kept.
"""

import _ctypes
import ctypes
import os
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bindings.cache_directory import CacheError
from bindings.cpu import host_compiler
from bindings.cpu.kernel_source import SIMT_HEADERS
from bindings.cpu.source_lines import source_line
from bindings.errors import CutawayError

ORDERS = ("ascending", "descending", "shuffled", "greedy")  # as enum Order in runtime/schedule.h
RUNTIME = Path(__file__).resolve().parent / "runtime"
RUNTIME_FLAGS = ("-fvisibility=hidden",)


@dataclass(frozen=True)
class Report:
    """Why a launch failed. `str(report)` is one line.

    `kind` is a short phrase ("illegal address", "divergent barrier", …); `thread` is None when no single one is to
    blame, `block` when it was no kernel; `address` is that of a faulting access; `location` is `file:line`, None where
    it is not known.
    """

    kind: str
    kernel: str
    block: tuple[int, int, int] | None
    thread: tuple[int, int, int] | None
    address: int | None
    location: str | None
    text: str

    def __str__(self) -> str:
        block = f", block {self.block}" if self.block is not None else ""
        thread = f", thread {self.thread}" if self.thread is not None else ""
        location = f" at {self.location}" if self.location else ""
        return f"{self.kind} in {self.kernel}{location}{block}{thread}: {self.text}"


class _CReport(ctypes.Structure):
    """struct Report of runtime/report.h."""

    _fields_ = (
        ("kind", ctypes.c_char * 64),
        ("text", ctypes.c_char * 1536),
        ("file", ctypes.c_char * 512),
        ("line", ctypes.c_int),
        ("has_thread", ctypes.c_int),
        ("block", ctypes.c_uint * 3),
        ("thread", ctypes.c_uint * 3),
        ("address", ctypes.c_uint64),
        ("program_counter", ctypes.c_uint64),
    )


class _CLoadedKernel(ctypes.Structure):
    """struct LoadedKernel of runtime/launch.cpp."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("module_base", ctypes.c_uint64),
        ("tls_module", ctypes.c_size_t),
        ("tls_bytes", ctypes.c_size_t),
        ("block_seconds", ctypes.c_double),
    )


class _CParameter(ctypes.Structure):
    """struct Parameter of simt/simt_export.h."""

    _fields_ = (("offset", ctypes.c_size_t), ("size", ctypes.c_size_t))


class _CKernel(ctypes.Structure):
    """struct Kernel of simt/simt_export.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("entry", ctypes.c_void_p),
        ("parameters", ctypes.POINTER(_CParameter)),
        ("num_parameters", ctypes.c_int),
        ("max_threads", ctypes.c_int),
    )


@dataclass(frozen=True)
class KernelInfo:
    """A kernel of a loaded module. `params` are (offset, size) in bytes, as CUDA lays a kernel's parameters out.

    `static_shared_bytes` counts all static shared memory of the module: an upper bound where it has several kernels.
    """

    name: str
    params: list[tuple[int, int]]
    static_shared_bytes: int
    max_threads: int
    module: "Module" = field(repr=False, compare=False)
    loaded: _CLoadedKernel = field(repr=False, compare=False)


def thread_count() -> int:
    """How many OS threads the device uses: $CUTAWAY_CPU_THREADS, else one for each processor. Raises CutawayError."""
    text = os.environ.get("CUTAWAY_CPU_THREADS", "")
    if not text:
        return os.cpu_count() or 1
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise CutawayError(f"CUTAWAY_CPU_THREADS is {text!r}; it must be a number from 1 to 1024")
    return int(text)


@lru_cache(maxsize=1)
def _runtime() -> ctypes.CDLL:
    """The runtime library. Modules find its functions by name, hence RTLD_GLOBAL."""
    threads = thread_count()
    sources = sorted(RUNTIME.glob("*.cpp"))
    headers = [*RUNTIME.glob("*.h"), SIMT_HEADERS / "simt_runtime.h"]
    path = host_compiler.build_library("simt", sources, headers, RUNTIME_FLAGS)
    library = host_compiler.load_library(path, ctypes.RTLD_GLOBAL)
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    sizes = [number] * 6  # grid and block, x y z
    library.simt_launch.argtypes = [pointer, *sizes, ctypes.c_size_t, pointer, pointer]
    library.simt_launch.restype = ctypes.c_int
    library.simt_find_module.argtypes = [pointer]
    library.simt_set_schedule.argtypes = [ctypes.c_int, ctypes.c_uint64]
    library.simt_start.argtypes = [number]
    library.simt_start(threads)
    return library


def set_schedule(name: str, seed: int = 0) -> None:
    """Choose the order in which threads and blocks take turns, from the next launch on.

    Raises CutawayError if `name` is none of ORDERS or `seed` is not from 0 to 2^64 - 1.
    """
    if name not in ORDERS:
        raise CutawayError(f"schedule {name!r} is not one of {', '.join(ORDERS)}")
    if not 0 <= seed < 2**64:
        raise CutawayError(f"the schedule's seed {seed} is not from 0 to 2^64 - 1")
    _runtime().simt_set_schedule(ORDERS.index(name), seed)


class Module:
    """A loaded image; `kernels` by name. Raises CutawayError if the image is not one of the CPU device's."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.kernels: dict[str, KernelInfo] = {}
        self._library = _open_image(image)
        try:
            entries = _kernel_table(self._library)
        except CutawayError:
            self.close()
            raise
        self.kernels = {kernel.name.decode(): _describe(kernel, self) for kernel in entries}

    def close(self) -> None:
        """Unload the code. No kernel of the module may be launched afterwards."""
        if self._library is not None:
            _ctypes.dlclose(self._library._handle)
        self._library = None
        self.kernels = {}


def _open_image(image: bytes) -> ctypes.CDLL | None:
    _runtime()  # whose functions the image calls
    try:
        with tempfile.NamedTemporaryFile(prefix="cutaway-", suffix=".so") as file:  # once mapped, its name can go
            file.write(image)
            file.flush()
            return _load(file.name)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise CacheError(f"cannot write to {folder}: {error.strerror}; make room there, or set TMPDIR") from error


def _load(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path, mode=os.RTLD_NOW)
    except OSError as error:
        if "failed to map segment" in str(error):  # what the loader says of a file system mounted noexec
            raise CacheError(f"{Path(path).parent} is closed to programs; set TMPDIR to another folder") from error
        raise CutawayError(f"the module image cannot be loaded: {error}") from error


def _kernel_table(library: ctypes.CDLL | None) -> list[_CKernel]:
    """The entries of SIMT_MODULE in simt/simt_export.h: pointers to kernels, then a null pointer."""
    try:
        first = ctypes.c_void_p.in_dll(library, "simt_kernels")  # type: ignore[arg-type]
    except ValueError as error:
        raise CutawayError("the module image has no kernel table: it was not made by the CPU device") from error
    pointers = ctypes.cast(ctypes.addressof(first), ctypes.POINTER(ctypes.POINTER(_CKernel)))
    kernels: list[_CKernel] = []
    while pointers[len(kernels)]:
        kernels.append(pointers[len(kernels)].contents)
    return kernels


def _describe(kernel: _CKernel, module: Module) -> KernelInfo:
    loaded = _CLoadedKernel(entry=kernel.entry)
    _runtime().simt_find_module(ctypes.addressof(loaded))
    params = [(parameter.offset, parameter.size) for parameter in kernel.parameters[: kernel.num_parameters]]
    return KernelInfo(kernel.name.decode(), params, loaded.tls_bytes, kernel.max_threads, module, loaded)


def load_module(image: bytes) -> Module:
    """Load what nvrtcGetCUBIN gave."""
    return Module(image)


def launch(
    kernel: KernelInfo,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    params_address: int,
) -> Report | None:
    """Run every block of the grid to its end; None, or the report of the first failure.

    `params_address` points to a `void*[]` with the address of each argument. Blocks the caller, but not other Python
    threads. The limits of the launch (threads of a block, shared memory) are the driver's to check.
    """
    result = _CReport()
    failed = _runtime().simt_launch(
        ctypes.addressof(kernel.loaded), *grid, *block, shared_bytes, params_address, ctypes.addressof(result)
    )
    return _to_report(kernel, result) if failed else None


def _to_report(kernel: KernelInfo, result: _CReport) -> Report:
    location = f"{result.file.decode()}:{result.line}" if result.file else None
    if location is None and result.program_counter:
        location = source_line(kernel.module.image, result.program_counter - kernel.loaded.module_base)
    return Report(
        kind=result.kind.decode(),
        kernel=kernel.name,
        block=tuple(result.block),
        thread=tuple(result.thread) if result.has_thread else None,
        address=result.address or None,
        location=location,
        text=result.text.decode(errors="replace"),
    )
