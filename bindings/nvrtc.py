"""Compile a `.cu` file at run time, and keep the result in a cache that cannot lie.

A cubin for the device's own architecture, never PTX: a newer NVRTC writes PTX that an older driver refuses. What is
known when a model is loaded (head_dim, page size) goes in as `-D` constants: specialising at run time is an advantage
over a prebuilt library.

The cache key takes the source, the contents of every file it includes, every option, the toolchain, the architecture
and a schema number. An entry is a folder (kernel.cu, image, compile.log, key.json), written aside and renamed whole; a
damaged one is built anew with a warning (aside.py).
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bindings import backend
from bindings.aside import aside, discard, is_whole, keep, seal
from bindings.cache_directory import cache_directory
from bindings.calls import nvrtc
from bindings.cuda_headers import headers_for
from bindings.errors import CompileError, CudaError

CACHE_SCHEMA = 2
KERNEL_SOURCES = Path(__file__).resolve().parent.parent / "cuda_src"

_INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', re.MULTILINE)


@dataclass(frozen=True)
class CompiledKernel:
    """A compiled `.cu`: the image for cuModuleLoadData, the compiler's log, and the cache folder that holds both."""

    image: bytes
    log: str
    folder: Path
    from_cache: bool


def toolchain() -> str:
    """All that the result depends on beside source and options: the compiler and its version."""
    api = backend.select().nvrtc
    if hasattr(api, "toolchain"):
        return str(api.toolchain())
    major, minor = nvrtc.nvrtcVersion()
    return f"NVRTC {major}.{minor}"


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def forget_texts() -> None:
    """Read sources and headers anew from now on: they may have been edited since this process read them."""
    _text.cache_clear()
    _included.cache_clear()


@cache
def _included(path: Path, folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files that `path` names in #include lines and that lie in its own folder or in `folders`."""
    found = []
    for name in _INCLUDE.findall(_text(path)):
        candidates = (folder / name for folder in (path.parent, *folders))
        found += [next((file for file in candidates if file.is_file()), None)]
    return tuple(file for file in found if file is not None)


def include_closure(path: Path, folders: tuple[Path, ...]) -> list[Path]:
    """Every file that compiling `path` may read, itself first (conditions ignored: a superset)."""
    closure, pending = [path], [path]
    while pending:
        for file in _included(pending.pop(), folders):
            if file not in closure:
                closure.append(file)
                pending.append(file)
    return closure


def include_folders(arch: str, root: Path = KERNEL_SOURCES) -> tuple[Path, Path]:
    """Where a kernel of the source tree `root` finds its headers: the tree's own, then CUDA's."""
    return root / "include", headers_for(arch)


def _options(defines: Mapping[str, int | str], arch: str, root: Path) -> list[str]:
    own, cuda = include_folders(arch, root)
    options = [
        f"--include-path={own}",
        f"--include-path={cuda}",
        "--std=c++17",
    ]
    if arch != "cpu":
        options += [f"--gpu-architecture={arch}", "-lineinfo", "--ptxas-options=-v"]
    return options + [f"-D{name}={value}" for name, value in sorted(defines.items())]


def cache_key(source: Path, options: list[str], arch: str, root: Path = KERNEL_SOURCES) -> dict[str, object]:
    """What an image depends on, as a JSON-able dictionary; two equal keys may share an image."""
    folders = include_folders(arch, root)
    files = hashlib.sha256()
    for file in include_closure(source, folders):
        files.update(file.name.encode() + b"\0" + _text(file).encode() + b"\0")
    # Folder names are left out: their contents are in `files`, and a moved checkout may keep its cache. But a file that
    # belongs to no source tree is known by its whole path: reports point to lines of it.
    kept = [option for option in options if not option.startswith("--include-path")]
    return {
        "schema": CACHE_SCHEMA,
        "source": source.name if source.is_relative_to(root) else str(source),
        "files": files.hexdigest(),
        "options": kept,
        "toolchain": toolchain(),
        "arch": arch,
    }


def _folder_of(key: dict[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_directory("kernels", str(key["arch"])) / f"{Path(str(key['source'])).stem}-{digest[:20]}"


def _read_entry(folder: Path, key: dict[str, object]) -> CompiledKernel | None:
    """The entry in `folder` if it is whole and its own key agrees, else None (with a warning)."""
    if not folder.is_dir():
        return None
    try:
        if is_whole(folder) and json.loads((folder / "key.json").read_text()) == key:
            image, log = (folder / "image").read_bytes(), (folder / "compile.log").read_text()
            return CompiledKernel(image, log, folder, from_cache=True)
    except (OSError, ValueError):
        pass
    warnings.warn(f"kernel cache entry {folder} is damaged; compiling it again", stacklevel=2)
    discard(folder)
    return None


def _write_entry(folder: Path, key: dict[str, object], source: Path, image: bytes, log: str) -> None:
    """Write the entry aside and rename it whole. If another process was first, its entry stays."""
    with aside(folder.parent) as scratch:
        made = scratch / folder.name
        made.mkdir()
        (made / "kernel.cu").write_text(_text(source))
        (made / "image").write_bytes(image)
        (made / "compile.log").write_text(log)
        (made / "key.json").write_text(json.dumps(key, indent=1))
        seal(made)
        keep(made, folder)


def _log_of(program: object) -> str:
    # At least two bytes: CPython shares one-byte `bytes` objects, and NVRTC writes into this one.
    buffer = b" " * max(nvrtc.nvrtcGetProgramLogSize(program), 2)
    nvrtc.nvrtcGetProgramLog(program, buffer)
    return buffer.rstrip(b"\0 ").decode(errors="replace").strip()


def _compile_error(source: Path, error: CudaError, log: str) -> CompileError:
    """The error for a kernel that NVRTC refused, or that it could not get at (its disk is full, say)."""
    first = next((line for line in log.splitlines() if "error" in line), error.name).strip()
    refused = error.name == "NVRTC_ERROR_COMPILATION"
    what = f"{source.name} does not compile" if refused else f"{source.name} could not be compiled"
    return CompileError(f"{what}: {first.removeprefix('error: ')}", log)


@contextmanager
def _compiled(source: Path, options: list[str]) -> Iterator[Any]:
    """The program of `source`, compiled under its true name, so that logs and profilers point to real lines."""
    program = nvrtc.nvrtcCreateProgram(_text(source).encode(), str(source).encode(), 0, None, None)
    try:
        try:
            nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        except CudaError as error:
            raise _compile_error(source, error, _log_of(program)) from error
        yield program
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _compile(source: Path, options: list[str]) -> tuple[bytes, str]:
    with _compiled(source, options) as program:
        image = b" " * nvrtc.nvrtcGetCUBINSize(program)
        nvrtc.nvrtcGetCUBIN(program, image)
        return image, _log_of(program)


def ptx_of(source: Path, defines: Mapping[str, int | str], arch: str) -> str:
    """The PTX that NVRTC makes of `source` on its way to a cubin for `arch`: to be read, not to be loaded.

    Raises CompileError as compile_kernel does.
    """
    with _compiled(source, _options(defines, arch, KERNEL_SOURCES)) as program:
        text = b" " * nvrtc.nvrtcGetPTXSize(program)
        nvrtc.nvrtcGetPTX(program, text)
        return text.rstrip(b"\0 ").decode()


def compile_kernel(
    source: Path, defines: Mapping[str, int | str], arch: str, root: Path = KERNEL_SOURCES
) -> CompiledKernel:
    """The image of `source` for `arch`, from the cache or compiled now.

    `defines` become `-D` constants; `arch` is `sm_90a`, … or `cpu`; `root` is the source tree whose headers are meant.
    Raises CompileError with the first error line (the whole log in `.log`), and CacheError when the cache folder can't
    be written.
    """
    options = _options(defines, arch, root)
    key = cache_key(source, options, arch, root)
    folder = _folder_of(key)
    entry = _read_entry(folder, key)
    if entry is not None:
        return entry
    image, log = _compile(source, options)
    _write_entry(folder, key, source, image, log)
    return CompiledKernel(image, log, folder, from_cache=False)
