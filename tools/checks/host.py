"""What the CPU device is made of: a C++ compiler that works, processors and memory."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bindings.cpu import host_compiler
from bindings.cpu.executor import thread_count
from bindings.cpu.host import memory_limit, processor_name
from bindings.errors import CompileError, CutawayError
from tools.checks.check import Check, first_line, size

PROGRAM = '#include <cmath>\nextern "C" double root(double x) { return std::sqrt(x); }\n'
ONLY_CPU = "the CPU device compiles kernels with it; a GPU does not need it"


def fix() -> str:
    """What brings a compiler that works."""
    chosen = os.environ.get("CXX", "").strip()
    return "unset CXX    # or set it to a C++ compiler" if chosen else "apt install g++    # or: pip install ziglang"


def compiler() -> list[Check]:
    """The C++ compiler that would be taken: found, and able to compile, link and load a two-line library."""
    try:
        found = host_compiler.find_compiler()
    except CompileError as error:
        found_none = first_line(error).partition("; run `")[0]
        return [Check("compiler", "C++ compiler", "missing", found_none, ONLY_CPU, fix())]
    command, version = " ".join(found.command), first_line(CompileError(found.version))
    facts = {"command": list(found.command), "version": version}
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="cutaway-") as folder:
            source, library = Path(folder) / "two_lines.cpp", Path(folder) / "two_lines.so"
            source.write_text(PROGRAM)
            found.link([source], library, "a two-line program", Path(folder))
            host_compiler.load_library(library)
    except (CutawayError, OSError) as error:
        meaning = f"it fails: {first_line(error)}"
        return [Check("compiler", "C++ compiler", "broken", f"{command}: {version}", meaning, fix(), facts)]
    seconds = time.perf_counter() - started
    found_text = f"{command}: {version}; a two-line program took {seconds:.2f} s"
    return [Check("compiler", "C++ compiler", "ok", found_text, facts={**facts, "seconds": seconds})]


def cpu() -> list[Check]:
    """Processors and memory of the CPU device, with the variables that limit them."""
    try:
        threads, limit = thread_count(), memory_limit()
    except CutawayError as error:
        name = first_line(error).split()[0]
        return [Check("cpu", "CPU device", "broken", first_line(error), fix=f"unset {name}")]
    found = f"{processor_name()}, {threads} threads, {size(limit.free(0))} of {size(limit.total)} free"
    facts = {"threads": threads, "total": limit.total, "free": limit.free(0)}
    return [Check("cpu", "CPU device", "ok", found, facts=facts)]
