"""NVRTC's entry points, answered by the host's C++ compiler: the CPU device's half of run-time compilation.

Names, arguments, `(status, *values)` tuples and status codes are those of `cuda.bindings.nvrtc`. The "cubin" is a
shared object for `executor.load_module`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cuda.bindings.nvrtc import nvrtcResult

from bindings.aside import aside
from bindings.cache_directory import cache_directory
from bindings.cpu import checks, host_compiler, inspection
from bindings.cpu.kernel_source import SIMT_HEADERS, to_host_source, to_inspected_source
from bindings.cpu.shared_arrays import GAP, with_gaps
from bindings.cuda_headers import host_cuda_headers
from bindings.errors import CompileError, CutawayError

VERSION = (13, 0)  # the NVRTC whose options and headers these are

KERNEL_FLAGS = (
    "-fvisibility=hidden",  # modules are loaded side by side, and must not find one another's symbols
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",  # kernels reinterpret pointers freely, and nvcc lets them
    "-g1",  # line numbers, for reports; nothing else
)
# What a kernel is compiled with beside these, in each mode.
MODE_FLAGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    # A call of the runtime before each access (access_checks/sanitizer_calls.cpp). Little optimisation: what is checked
    # should be the accesses that the source makes, each on its line.
    "checked": ("-O1", "-fsanitize=thread,alignment", "-DSIMT_CHECKED"),
    # What instrument.py adds is much code for one thread to run: it should compile fast. (-O0 takes longer: it keeps
    # every static function of NVIDIA's headers.)
    "inspected": ("-Og", "-DSIMT_INSPECTED"),
}
GNU_MODE_FLAGS = {
    "checked": ("-fno-tree-sra",),  # the copy of a struct stays one access
    "inspected": ("-ftrivial-auto-var-init=pattern",),  # bytes of 0xFE: what was not assigned can be told
}
GNU_FLAGS = ("-fno-gnu-unique",)  # g++ would tie modules together by their inline functions' static variables

SUCCESS = nvrtcResult.NVRTC_SUCCESS
INVALID_PROGRAM = nvrtcResult.NVRTC_ERROR_INVALID_PROGRAM


@dataclass
class Program:
    """What nvrtcCreateProgram returns."""

    source: str
    name: str
    image: bytes = b""
    log: str = ""
    destroyed: bool = False


def simt_headers() -> list[Path]:
    """The files that make up what comes before a kernel's source (of NVIDIA's, those that change with each version)."""
    own = [*sorted(SIMT_HEADERS.glob("*.h")), SIMT_HEADERS / "nv" / "target"]
    return [*own, host_cuda_headers() / "cuda_bf16.h", host_cuda_headers() / "cuda_fp16.h"]


def _mode() -> str:
    """How kernels are compiled now."""
    return "inspected" if inspection.inspecting() else "checked" if checks.checking() else "plain"


@lru_cache(maxsize=3)
def _flags(mode: str) -> tuple[str, ...]:
    flags: tuple[str, ...] = (*KERNEL_FLAGS, f"-I{SIMT_HEADERS}", f"-I{host_cuda_headers()}", *MODE_FLAGS[mode])
    compiler = host_compiler.find_compiler()
    if not compiler.is_gnu:
        return flags
    extra = tuple(filter(compiler.accepts, GNU_MODE_FLAGS.get(mode, ())))  # g++ 11 knows nothing of initial patterns
    return flags + extra + GNU_FLAGS


@lru_cache(maxsize=3)
def _toolchain(mode: str) -> str:
    extra = {
        "checked": (f"gap {GAP}",),
        "inspected": (host_compiler.digest_files(inspection.INSTRUMENTERS),),
    }
    flags = KERNEL_FLAGS + MODE_FLAGS[mode] + GNU_MODE_FLAGS.get(mode, ()) + extra.get(mode, ())
    return "\n".join((host_compiler.find_compiler().identity, *flags, host_compiler.digest_files(simt_headers())))


def toolchain() -> str:
    """All that a kernel compiled now depends on beside source and options: compiler, flags, processor, headers."""
    return _toolchain(_mode())


def _usable(prog: Any) -> bool:
    return isinstance(prog, Program) and not prog.destroyed


def _translate(options: Sequence[bytes]) -> list[str] | str:
    """The options as the host compiler takes them; the first that it cannot take, as a string."""
    translated = []
    for option in (raw.decode() for raw in options):
        if option.startswith("--include-path="):
            translated.append("-I" + option.removeprefix("--include-path="))
        elif option.startswith(("-D", "-I")) and len(option) > 2:
            translated.append(option)
        elif option not in ("--std=c++17", "-std=c++17"):  # the device's own headers need C++20, which contains it
            return option
    return translated


def _host_source(program: Program, options: list[str]) -> str:
    if _mode() != "inspected":
        return to_host_source(program.source, program.name)
    folders = [Path(option.removeprefix("-I")) for option in options if option.startswith("-I")]
    try:
        return to_inspected_source(program.source, program.name, folders)
    except ValueError:  # brackets that do not match: the compiler knows best what to say of them
        return to_host_source(program.source, program.name)


def _compile(program: Program, options: list[str]) -> None:
    mode, compiler, name = _mode(), host_compiler.find_compiler(), Path(program.name).name
    flags = _flags(mode)
    prefix = host_compiler.precompiled_header(SIMT_HEADERS / "simt.h", simt_headers(), flags)
    with aside(cache_directory("cpu")) as folder:
        source, image = folder / "kernel.cpp", folder / "kernel.so"
        source.write_text(_host_source(program, options))
        beside = f"-iquote{Path(program.name).resolve().parent}"  # where #include "..." looks first
        arguments: list[str | Path] = [*flags, *prefix, beside, *options, source]
        if mode == "checked":
            assembly = folder / "kernel.s"
            program.log = compiler.run([*arguments, "-S", "-o", assembly], name, folder)
            text = assembly.read_text()
            if "__tsan_init" not in text:  # the ziglang wheel drops the flag without a word
                command = " ".join(compiler.command)
                raise CompileError(f"checked kernels need g++ or clang++ ($CXX); {command} cannot make them")
            assembly.write_text(with_gaps(text))
            # Without the flags, which would link the sanitizers' own libraries.
            compiler.link([assembly], image, name, folder)
        else:
            program.log = compiler.link(arguments, image, name, folder)
        program.image = image.read_bytes()


def nvrtcVersion() -> tuple[Any, ...]:
    """(status, major, minor) of the NVRTC that this one stands in for."""
    return SUCCESS, *VERSION


def nvrtcGetErrorString(result: Any) -> tuple[Any, bytes]:
    """(status, the name of `result`)."""
    return SUCCESS, nvrtcResult(result).name.encode()


def nvrtcCreateProgram(src: bytes, name: bytes, numHeaders: int, headers: Any, includeNames: Any) -> tuple[Any, Any]:
    """(status, program). Headers in memory are not offered."""
    if numHeaders or headers or includeNames:
        return nvrtcResult.NVRTC_ERROR_INVALID_INPUT, None
    return SUCCESS, Program(src.rstrip(b"\0").decode(), name.rstrip(b"\0").decode() or "default_program")


def nvrtcCompileProgram(prog: Program, numOptions: int, options: Sequence[bytes] | None) -> tuple[Any]:
    """(status,). The compiler's text, errors included, is the program's log."""
    given = list(options or ())
    if not _usable(prog):
        return (INVALID_PROGRAM,)
    if numOptions != len(given):
        return (nvrtcResult.NVRTC_ERROR_INVALID_INPUT,)
    translated = _translate(given)
    if isinstance(translated, str):
        prog.log = f"error: the CPU device does not know the option {translated!r}"
        return (nvrtcResult.NVRTC_ERROR_INVALID_OPTION,)
    try:
        _compile(prog, translated)
    except CompileError as error:
        prog.log = error.log or f"error: {error}"
        return (nvrtcResult.NVRTC_ERROR_COMPILATION,)
    except (CutawayError, OSError) as error:
        prog.log = f"error: {error}"
        return (nvrtcResult.NVRTC_ERROR_INTERNAL_ERROR,)
    return (SUCCESS,)


def _fill(buffer: bytes, data: bytes) -> tuple[Any]:
    """Write `data` over the caller's `bytes`, as the real bindings do; the status."""
    if len(buffer) < len(data):
        return (nvrtcResult.NVRTC_ERROR_INVALID_INPUT,)
    ctypes.memmove(ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p), data, len(data))
    return (SUCCESS,)


def nvrtcGetProgramLogSize(prog: Program) -> tuple[Any, int]:
    """(status, bytes of the log with its closing zero)."""
    return (INVALID_PROGRAM, 0) if not _usable(prog) else (SUCCESS, len(prog.log.encode()) + 1)


def nvrtcGetProgramLog(prog: Program, log: bytes) -> tuple[Any]:
    """(status,); the log is written into `log`."""
    if not _usable(prog):
        return (INVALID_PROGRAM,)
    return _fill(log, prog.log.encode() + b"\0")


def nvrtcGetCUBINSize(prog: Program) -> tuple[Any, int]:
    """(status, bytes of the image)."""
    return (INVALID_PROGRAM, 0) if not _usable(prog) or not prog.image else (SUCCESS, len(prog.image))


def nvrtcGetCUBIN(prog: Program, cubin: bytes) -> tuple[Any]:
    """(status,); the image is written into `cubin`."""
    if not _usable(prog) or not prog.image:
        return (INVALID_PROGRAM,)
    return _fill(cubin, prog.image)


def nvrtcDestroyProgram(prog: Program) -> tuple[Any]:
    """(status,)."""
    if not _usable(prog):
        return (INVALID_PROGRAM,)
    prog.destroyed, prog.image, prog.log = True, b"", ""
    return (SUCCESS,)
