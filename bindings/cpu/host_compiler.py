"""The host's C++ compiler: which one, with which flags, and libraries built with it once and kept.

Everything that the CPU device compiles goes through here: kernels (`nvrtc.py`), the runtime that executes them
(`executor.py`) and the matrix product (`cublas.py`).
"""

import ctypes
import hashlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bindings.aside import aside, discard, is_whole, keep, mark_used, prune, seal
from bindings.cache_directory import REMEDY, CacheError, cache_directory
from bindings.errors import CompileError

# No contraction of a*b+c: a kernel says fmaf where it means it, and must not depend on what the host's compiler likes.
# No errno and no traps: they keep the compiler from vectorising square roots and comparisons; results stay the same.
BASE_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread")
# The fastest code for this very processor; the names differ between compilers and processors.
NATIVE_FLAGS = ("-march=native", "-mcpu=native")
# Kernels are compiled by several threads at once; the header that they share is precompiled by one.
_header_lock = threading.Lock()


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

    def accepts(self, flag: str) -> bool:
        """Whether it knows this option."""
        return _accepts(self.command, flag)

    def run(self, arguments: Sequence[str | Path], what: str, scratch: Path) -> str:
        """Run the compiler, with `scratch` for its temporary files; the text it wrote.

        Raises CompileError, with that text in `log`, if it fails, CacheError if the disk is full.
        """
        command = [*self.command, *self.flags, *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | {"LC_ALL": "C", "TMPDIR": str(scratch)},  # LC_ALL: errors are looked for in English
            )
        except OSError as error:
            raise CompileError(f"cannot run {shlex.join(self.command)}: {error.strerror}") from error
        if done.returncode:
            raise self._failure(what, done.returncode, done.stdout, scratch)
        return done.stdout

    def _failure(self, what: str, code: int, log: str, scratch: Path) -> CompileError | CacheError:
        """The error for a compiler that ended with `code` and wrote `log`."""
        if "No space left on device" in log:
            return CacheError(f"cannot write to {scratch.parent}: No space left on device; {REMEDY}")
        lines = [line.strip()[:300] for line in log.splitlines()]
        first = next((line for line in lines if "error" in line), "")
        if not first:
            ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            first = ": ".join((f"error: {shlex.join(self.command)} {ending}", *lines[:1]))
            log = f"{first}\n{log}"
        return CompileError(f"{what} does not compile: {first}", log)

    def link(self, arguments: Sequence[str | Path], output: Path, what: str, scratch: Path) -> str:
        """`run` with `-shared` and `-o output`, and a look at whether a library came out."""
        log = self.run(["-shared", *arguments, "-o", output], what, scratch)
        if not output.is_file() or not output.read_bytes().startswith(b"\x7fELF"):
            first = f"error: {shlex.join(self.command)} reports success but made no shared library"
            raise CompileError(f"{what} does not compile: {first}", log or first)
        return log


def _processor() -> str:
    """The processor's name and features, which -march=native turns into instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    kept = {line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")}
    return "\n".join(sorted(kept))


def _ask(command: Sequence[str], *arguments: str) -> tuple[str | None, str]:
    """(what `command` prints, ""), or (None, why it prints nothing)."""
    try:
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return None, "not found" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if done.returncode:
        return None, f"{' '.join(arguments[:1])} fails with status {done.returncode}"
    return done.stdout, ""


def candidates() -> list[tuple[str, ...]]:
    """The commands to try: $CXX alone if it is set. Raises CompileError when $CXX can't be read."""
    text = os.environ.get("CXX", "").strip()
    if not text:
        return [("g++",), ("clang++",), (sys.executable, "-m", "ziglang", "c++")]
    try:
        return [tuple(shlex.split(text))]
    except ValueError as error:
        raise CompileError(f"CXX is {text!r}: {error}; set it to a C++ compiler's command") from error


def _accepts(command: Sequence[str], flag: str) -> bool:
    return _ask(command, flag, "-x", "c++", "-E", os.devnull)[0] is not None


def _native_flags(command: Sequence[str]) -> tuple[str, ...]:
    return next(((flag,) for flag in NATIVE_FLAGS if _accepts(command, flag)), ())


@lru_cache(maxsize=1)
def find_compiler() -> HostCompiler:
    """$CXX if set, else g++, clang++, or the `ziglang` wheel. Raises CompileError naming what was tried."""
    tried = []
    for command in candidates():
        version, why = _ask(command, "--version")
        if version is not None:
            flags = BASE_FLAGS + _native_flags(command)
            if "ziglang" in command:
                flags += ("-fno-sanitize=all",)  # zig traps on undefined behaviour unless told not to
            return HostCompiler(command, version.strip(), flags)
        tried.append(f"{shlex.join(command)}: {why}")
    source = "$CXX, " if os.environ.get("CXX", "").strip() else ""
    raise CompileError(
        f"the CPU device needs a C++ compiler and found none (tried {source}{'; '.join(tried)}); "
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


def _entry(kind: str, key: str) -> tuple[Path, bool]:
    """The cache's folder for `kind` and `key`, and whether it is there and whole."""
    entry = cache_directory("cpu") / f"{kind}-{key}"
    if not entry.is_dir():
        return entry, False
    if is_whole(entry):
        mark_used(entry)
        return entry, True
    warnings.warn(f"cache entry {entry} is damaged; compiling it again", stacklevel=2)
    discard(entry)
    return entry, False


def build_library(name: str, sources: Sequence[Path], headers: Sequence[Path] = (), flags: Sequence[str] = ()) -> Path:
    """The shared library made of `sources`, from the cache or compiled now.

    `headers` are the files that the sources include: their contents are part of the cache's key, their folders are
    searched. Raises CompileError (the compiler's text in `log`), CacheError when the cache can't be written.
    """
    compiler = find_compiler()
    key = digest(compiler.identity, digest_files([*sources, *headers]), *flags)
    entry, whole = _entry(name, key)
    if not whole:
        with aside(entry.parent) as folder:
            made = folder / "entry"
            made.mkdir()
            _compile_library(compiler, name, sources, headers, flags, made, folder)
            seal(made)
            keep(made, entry)
        prune(entry.parent, name)
    return entry / f"{name}.so"


def _compile_library(
    compiler: HostCompiler,
    name: str,
    sources: Sequence[Path],
    headers: Sequence[Path],
    flags: Sequence[str],
    made: Path,
    scratch: Path,
) -> None:
    """Compile `sources` on all cores and link them to `made`/`name`.so."""
    folders = sorted({f"-I{header.parent}" for header in headers})
    objects = [scratch / f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, target: Path) -> None:
        compiler.run(["-c", *flags, *folders, source, "-o", target], source.name, scratch)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_one, sources, objects))
    compiler.link([*flags, *objects], made / f"{name}.so", name, scratch)


def load_library(path: Path, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """Load what `build_library` made; an entry that can't be loaded is not kept. Raises CompileError."""
    try:
        return ctypes.CDLL(str(path), mode=mode)
    except OSError as error:
        discard(path.parent)
        raise CompileError(
            f"the library that {shlex.join(find_compiler().command)} made cannot be loaded: {error};"
            " set CXX to another C++ compiler, or CUTAWAY_CACHE to a folder where programs may run"
        ) from error


def precompiled_header(header: Path, contents: Sequence[Path], flags: Sequence[str]) -> list[str]:
    """Arguments that include `header`, made up of the files `contents`, before a source.

    With g++ it is precompiled once, since parsing NVIDIA's headers takes longer than compiling most kernels. clang
    reads text faster, and refuses a precompiled header as soon as a file that it came from has a newer date.
    Raises CompileError, and CacheError when the cache can't be written.
    """
    compiler = find_compiler()
    if not compiler.is_gnu:
        return ["-include", str(header)]
    key = digest(compiler.identity, digest_files(contents), str(header), *flags)
    with _header_lock:
        entry, whole = _entry(header.name, key)
        if not whole:
            with aside(entry.parent) as folder:
                made = folder / "entry"
                made.mkdir()
                _precompile(compiler, header, flags, made / "prefix.h", folder)
                seal(made)
                keep(made, entry)
            prune(entry.parent, header.name)
    return ["-include", str(entry / "prefix.h")]


def _precompile(compiler: HostCompiler, header: Path, flags: Sequence[str], prefix: Path, scratch: Path) -> None:
    """Write `prefix`, which includes `header`, and what g++ makes of it beside it."""
    prefix.write_text(f'#include "{header}"\n')
    output = prefix.with_name(f"{prefix.name}.gch")
    compiler.run(["-x", "c++-header", *flags, prefix, "-o", output], header.name, scratch)
    if not output.is_file():
        raise CompileError(f"{header.name} does not compile: {shlex.join(compiler.command)} wrote no {output.name}")
