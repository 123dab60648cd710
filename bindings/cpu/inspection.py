"""One thread under the lamp: kernels tell what this thread of this block does, statement by statement.

While it is on, kernels are compiled from a text to which `instrument.py` has added calls; the calls reach the recorder
(`recorder/`), which writes down what the chosen thread says. What is computed stays the same, bit for bit.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bindings.cpu import host_compiler
from bindings.cpu.executor import RUNTIME, RUNTIME_FLAGS, runtime
from bindings.cpu.kernel_source import SIMT_HEADERS
from bindings.errors import CutawayError

RECORDER = Path(__file__).resolve().parent / "recorder"
# What the text of an instrumented kernel depends on.
INSTRUMENTERS = [
    Path(__file__).with_name(f"{name}.py") for name in ("instrument", "cpp_tokens", "cpp_declarations", "kernel_source")
]

Dim3 = tuple[int, int, int]

MOST_BYTES = 64 << 20  # some 500,000 events, which take Python ten times that


@dataclass(frozen=True)
class Recording:
    """What the thread said, event by event: [kind, file, line, ...], as simt/simt_inspect.h lists them.

    `was_cut`: it said more than the recorder keeps.
    """

    events: list[list[Any]]
    was_cut: bool


_inspecting = False


def inspecting() -> bool:
    """Whether kernels are compiled so that they tell."""
    return _inspecting


@lru_cache(maxsize=1)
def _recorder() -> ctypes.CDLL:
    runtime()  # whose descriptions of threads it reads
    sources, headers = sorted(RECORDER.glob("*.cpp")), [SIMT_HEADERS / "simt_runtime.h", RUNTIME / "stacks.h"]
    path = host_compiler.build_library("recorder", sources, headers, RUNTIME_FLAGS)
    library = host_compiler.load_library(path, ctypes.RTLD_GLOBAL)
    library.simt_inspect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.simt_inspected_events.argtypes = [ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_bool)]
    library.simt_inspected_events.restype = ctypes.c_void_p
    return library


def inspect_thread(block: Dim3, thread: Dim3, most_bytes: int = MOST_BYTES) -> None:
    """Listen to one thread in the launches to come of kernels that are compiled from now on. Not in CUDA.

    What it says after the first `most_bytes` of text goes unheard. Raises CutawayError for a negative coordinate.
    """
    global _inspecting
    if min(*block, *thread) < 0:
        raise CutawayError(f"block {block}, thread {thread}: no coordinate may be negative")
    _recorder().simt_inspect((ctypes.c_uint * 3)(*block), (ctypes.c_uint * 3)(*thread), most_bytes)
    _inspecting = True


def end_inspection() -> Recording:
    """Stop listening; what was heard since `inspect_thread`. Not in CUDA."""
    global _inspecting
    _inspecting = False
    nbytes, was_cut = ctypes.c_size_t(), ctypes.c_bool()
    address = _recorder().simt_inspected_events(ctypes.byref(nbytes), ctypes.byref(was_cut))
    text = ctypes.string_at(address, nbytes.value).decode(errors="replace")
    return Recording([json.loads(line) for line in text.splitlines()], was_cut.value)
