"""Runs compiled kernels on the CPU: loads modules, launches grids, reports what went wrong in them.

The work is done by the runtime library (`runtime/`), which is compiled on first use and kept.
"""

import _ctypes
import ctypes
import os
import tempfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bindings.cache_directory import CacheError
from bindings.cpu import host_compiler
from bindings.cpu.kernel_source import SIMT_HEADERS
from bindings.cpu.shared_arrays import array_at, shared_arrays
from bindings.cpu.source_lines import source_line
from bindings.errors import CutawayError

ORDERS = ("ascending", "descending", "shuffled", "greedy")  # as enum Order in runtime/schedule.h
RUNTIME = Path(__file__).resolve().parent / "runtime"
ACCESS_CHECKS = RUNTIME.parent / "access_checks"
RUNTIME_FLAGS = ("-fvisibility=hidden",)
_DYNAMIC_SHARED, _STATIC_SHARED = 2, 3  # enum Memory in runtime/report.h


@dataclass(frozen=True)
class OtherAccess:
    """The earlier of two accesses that nothing orders; `what` is "with no barrier after the write" and the like."""

    what: str
    thread: tuple[int, int, int]
    location: str | None

    def __str__(self) -> str:
        location = f" at {self.location}" if self.location else ""
        return f"{self.what} by thread {self.thread}{location}"


@dataclass(frozen=True)
class Report:
    """Why a launch failed. `str(report)` is one line.

    `kind` is a short phrase ("illegal address", "divergent barrier", …); `thread` is None when no single one is to
    blame, `block` when it was no kernel; `address` is that of a faulting access; `location` is `file:line`, None where
    it is not known. `buffer` is the name of what an access went to, or a shared array's, and `offset` how many bytes
    behind its start (it may be negative); `other` is the access that this one collides with.
    """

    kind: str
    kernel: str
    block: tuple[int, int, int] | None
    thread: tuple[int, int, int] | None
    address: int | None
    location: str | None
    text: str
    buffer: str | None = None
    offset: int | None = None
    other: OtherAccess | None = None

    def __str__(self) -> str:
        block = f", block {self.block}" if self.block is not None else ""
        thread = f", thread {self.thread}" if self.thread is not None else ""
        location = f" at {self.location}" if self.location else ""
        return f"{self.kind} in {self.kernel}{location}{block}{thread}: {self.text}"


class _CAccess(ctypes.Structure):
    """struct AccessReport of runtime/report.h."""

    _fields_ = (
        ("memory", ctypes.c_int),
        ("offset", ctypes.c_int64),
        ("other", ctypes.c_char * 64),
        ("other_thread", ctypes.c_uint * 3),
        ("other_program_counter", ctypes.c_uint64),
    )


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
        ("access", _CAccess),
    )


class _CSharedArray(ctypes.Structure):
    """struct SharedArray of runtime/shared_memory.h."""

    _fields_ = (("offset", ctypes.c_size_t), ("size", ctypes.c_size_t))


class _CLoadedKernel(ctypes.Structure):
    """struct LoadedKernel of runtime/launch.cpp."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("module_base", ctypes.c_uint64),
        ("module_end", ctypes.c_uint64),
        ("tls_module", ctypes.c_size_t),
        ("tls_bytes", ctypes.c_size_t),
        ("block_seconds", ctypes.c_double),
        ("checked", ctypes.c_int),
        ("num_arrays", ctypes.c_int),
        ("arrays", ctypes.c_void_p),
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
def runtime() -> ctypes.CDLL:
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


@lru_cache(maxsize=1)
def access_checks() -> ctypes.CDLL:
    """The library that checked kernels call before each access; compiled and loaded when checks are first asked for."""
    runtime()  # whose functions it calls
    headers = [*ACCESS_CHECKS.glob("*.h"), *RUNTIME.glob("*.h"), SIMT_HEADERS / "simt_runtime.h"]
    path = host_compiler.build_library("checks", sorted(ACCESS_CHECKS.glob("*.cpp")), headers, RUNTIME_FLAGS)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.simt_check_memory.argtypes = [ctypes.c_bool]
    library.simt_add_allocation.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
    library.simt_remove_allocation.argtypes = [ctypes.c_uint64]
    library.simt_watch.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
    library.simt_take_writes.argtypes = [ctypes.c_void_p]
    return library


def set_schedule(name: str, seed: int = 0) -> None:
    """Choose the order in which threads and blocks take turns, from the next launch on.

    Raises CutawayError if `name` is none of ORDERS or `seed` is not from 0 to 2^64 - 1.
    """
    if name not in ORDERS:
        raise CutawayError(f"schedule {name!r} is not one of {', '.join(ORDERS)}")
    if not 0 <= seed < 2**64:
        raise CutawayError(f"the schedule's seed {seed} is not from 0 to 2^64 - 1")
    runtime().simt_set_schedule(ORDERS.index(name), seed)


def check_memory(on: bool) -> None:
    """Whether launches of checked kernels are checked. Switched on, no allocation is known yet."""
    access_checks().simt_check_memory(on)


def add_allocation(address: int, nbytes: int, written: int) -> None:
    """Let checked kernels touch `nbytes` at `address`.

    `written` is the address of a map of as many bytes, not 0 where the memory was written; if 0, all of it counts as
    written.
    """
    access_checks().simt_add_allocation(address, nbytes, written)


def remove_allocation(address: int) -> None:
    """The allocation that began at `address` is no more."""
    access_checks().simt_remove_allocation(address)


class Module:
    """A loaded image; `kernels` by name. Raises CutawayError if the image is not one of the CPU device's."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.kernels: dict[str, KernelInfo] = {}
        self.library = _open_image(image)
        try:
            self.is_checked = _is_checked(self.library)
            found = shared_arrays(image) if self.is_checked else []
            self.arrays = (_CSharedArray * len(found))(*(_CSharedArray(array.offset, array.nbytes) for array in found))
            entries = _kernel_table(self.library)
        except CutawayError:
            self.close()
            raise
        self.kernels = {kernel.name.decode(): _describe(kernel, self) for kernel in entries}

    def close(self) -> None:
        """Unload the code. No kernel of the module may be launched afterwards."""
        if self.library is not None:
            _ctypes.dlclose(self.library._handle)
        self.library = None
        self.kernels = {}


def _open_image(image: bytes) -> ctypes.CDLL | None:
    runtime()  # whose functions the image calls
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


def _is_checked(library: ctypes.CDLL | None) -> bool:
    """SIMT_IS_CHECKED of simt/simt_export.h, as the module was compiled with it."""
    try:
        return bool(ctypes.c_int.in_dll(library, "simt_is_checked").value)  # type: ignore[arg-type]
    except ValueError:  # not a module of ours: who looks for its kernels says so
        return False


def _describe(kernel: _CKernel, module: Module) -> KernelInfo:
    checked, arrays = module.is_checked, module.arrays
    loaded = _CLoadedKernel(
        entry=kernel.entry, checked=checked, num_arrays=len(arrays), arrays=ctypes.addressof(arrays)
    )
    runtime().simt_find_module(ctypes.addressof(loaded))
    params = [(parameter.offset, parameter.size) for parameter in kernel.parameters[: kernel.num_parameters]]
    # A checked module has gaps between its arrays, which are not the kernel's.
    static_bytes = sum(array.size for array in arrays) if checked else loaded.tls_bytes
    return KernelInfo(kernel.name.decode(), params, static_bytes, kernel.max_threads, module, loaded)


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
    failed = runtime().simt_launch(
        ctypes.addressof(kernel.loaded), *grid, *block, shared_bytes, params_address, ctypes.addressof(result)
    )
    return _to_report(kernel, result) if failed else None


def _to_report(kernel: KernelInfo, result: _CReport) -> Report:
    location = f"{result.file.decode()}:{result.line}" if result.file else None
    report = Report(
        kind=result.kind.decode(),
        kernel=kernel.name,
        block=tuple(result.block),
        thread=tuple(result.thread) if result.has_thread else None,
        address=result.address or None,
        location=location or line_at(kernel, result.program_counter),
        text=result.text.decode(errors="replace"),
    )
    return _with_access(report, kernel, result.access)


def line_at(kernel: KernelInfo, program_counter: int) -> str | None:
    """`file:line` of an instruction of the kernel's module; None where it is not known."""
    if not program_counter:
        return None
    return source_line(kernel.module.image, program_counter - kernel.loaded.module_base)


def _shared_buffer(kernel: KernelInfo, access: _CAccess) -> tuple[str, int] | None:
    """The name of the shared memory that was touched, and the offset in it; None if it was other memory."""
    if access.memory == _DYNAMIC_SHARED:
        return "dynamic shared memory", access.offset
    if access.memory == _STATIC_SHARED:
        array = array_at(kernel.module.image, access.offset)
        return (array.name, access.offset - array.offset) if array else ("static shared memory", access.offset)
    return None


def _with_access(report: Report, kernel: KernelInfo, access: _CAccess) -> Report:
    """The report with what a checked launch knows."""
    shared = _shared_buffer(kernel, access)
    if shared is None:
        return report
    buffer, offset = shared
    other, text = None, f"{report.text} at offset {offset} of {buffer}"
    if access.other:
        location = line_at(kernel, access.other_program_counter)
        other = OtherAccess(access.other.decode(), tuple(access.other_thread), location)
        text = f"{text}, {other}"
    return replace(report, text=text, buffer=buffer, offset=offset, other=other)
