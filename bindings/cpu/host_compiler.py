"""The host's C++ compiler: which one, with which flags, and libraries built with it once and kept.

Everything that the CPU device compiles goes through here: kernels (`nvrtc.py`), the runtime that executes them
(`executor.py`) and the matrix product (`cublas.py`).
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bindings.cache_directory import cache_directory
from bindings.errors import CompileError

# No contraction of a*b+c: a kernel says fmaf where it means it, and must not depend on what the host's compiler likes.
# No errno and no traps: they keep the compiler from vectorising square roots and comparisons; results stay the same.
BASE_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread")
# The fastest code for this very processor; the names differ between compilers and processors.
NATIVE_FLAGS = ("-march=native", "-mcpu=native")


@dataclass(frozen=True)
class HostCompiler:
    """A working C++ compiler. `identity` is all about it and the machine that its output depends on."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]

    @property
    def identity(self) -> str:
        return "\n".join((*self.command, self.version, *self.flags, _processor()))

    @property
    def is_gnu(self) -> bool:
        return "Free Software Foundation" in self.version

    def run(self, arguments: Sequence[str | Path], what: str) -> str:
        """Run the compiler; the text it wrote. Raises CompileError, with that text in `log`, if it fails."""
        command = [*self.command, *self.flags, *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            first = next((line for line in done.stdout.splitlines() if "error" in line), done.stdout[:200]).strip()
            raise CompileError(f"{what} does not compile: {first}", done.stdout)
        return done.stdout


def _processor() -> str:
    """The processor's name and features, which -march=native turns into instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    kept = {line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")}
    return "\n".join(sorted(kept))


def _answer(command: Sequence[str], *arguments: str) -> str | None:
    """What `command` prints, or None if it is not there or fails."""
    try:
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _candidates() -> list[tuple[str, ...]]:
    if os.environ.get("CXX"):
        return [tuple(shlex.split(os.environ["CXX"]))]
    return [("g++",), ("clang++",), (sys.executable, "-m", "ziglang", "c++")]


def _native_flags(command: Sequence[str]) -> tuple[str, ...]:
    for flag in NATIVE_FLAGS:
        if _answer(command, flag, "-x", "c++", "-E", os.devnull) is not None:
            return (flag,)
    return ()


@lru_cache(maxsize=1)
def find_compiler() -> HostCompiler:
    """$CXX if set, else g++, clang++, or the `ziglang` wheel. Raises CompileError naming what was tried."""
    for command in _candidates():
        version = _answer(command, "--version")
        if version is None:
            continue
        flags = BASE_FLAGS + _native_flags(command)
        if "ziglang" in command:
            flags += ("-fno-sanitize=all",)  # zig traps on undefined behaviour unless told not to
        return HostCompiler(command, version.strip(), flags)
    tried = ", ".join(shlex.join(command) for command in _candidates())
    source = "$CXX" if os.environ.get("CXX") else "a C++ compiler"
    raise CompileError(
        f"the CPU device needs a C++ compiler and found none (tried {source}: {tried}); "
        "run `apt install g++` or `pip install ziglang`"
    )


def digest(*texts: str | bytes) -> str:
    """A short name for what `texts` say, to call a file in the cache by."""
    state = hashlib.sha256()
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:20]


def digest_files(files: Sequence[Path]) -> str:
    """Of the names and contents of `files`."""
    return digest(*(part for file in sorted(files) for part in (file.name, file.read_bytes())))


def build_library(name: str, sources: Sequence[Path], headers: Sequence[Path] = (), flags: Sequence[str] = ()) -> Path:
    """The shared library made of `sources`, from the cache or compiled now.

    `headers` are the files that the sources include: their contents are part of the cache's key, their folders are
    searched. Raises CompileError (the compiler's text in `log`), CutawayError when the cache can't be written.
    """
    compiler = find_compiler()
    key = digest(compiler.identity, digest_files([*sources, *headers]), *flags)
    library = cache_directory("cpu") / f"{name}-{key}.so"
    if library.is_file():
        return library
    folders = sorted({f"-I{header.parent}" for header in headers})
    with tempfile.TemporaryDirectory(prefix=".part-", dir=library.parent) as aside:
        objects = [Path(aside) / f"{source.stem}.o" for source in sources]

        def compile_one(source: Path, target: Path) -> None:
            compiler.run(["-c", *flags, *folders, source, "-o", target], source.name)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(compile_one, sources, objects))
        linked = Path(aside) / library.name
        compiler.run(["-shared", *flags, *objects, "-o", linked], name)
        os.replace(linked, library)  # whole or not at all, and whoever comes second replaces it by the same
    return library


def precompiled_header(header: Path, contents: Sequence[Path], flags: Sequence[str]) -> list[str]:
    """Arguments that include `header`, made up of the files `contents`, before a source.

    With g++ it is precompiled once, since parsing NVIDIA's headers takes longer than compiling most kernels. clang
    reads text faster, and refuses a precompiled header as soon as a file that it came from has a newer date.
    """
    compiler = find_compiler()
    if not compiler.is_gnu:
        return ["-include", str(header)]
    key = digest(compiler.identity, digest_files(contents), str(header), *flags)
    folder = cache_directory("cpu") / f"{header.stem}-{key}"
    prefix = folder / "prefix.h"
    if not folder.is_dir():
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            (aside / prefix.name).write_text(f'#include "{header}"\n')
            precompiled = aside / f"{prefix.name}.gch"
            compiler.run(["-x", "c++-header", *flags, aside / prefix.name, "-o", precompiled], header.name)
            os.rename(aside, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return ["-include", str(prefix)]
