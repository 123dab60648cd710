"""Which device this process drives: a GPU through NVIDIA's libraries, or the CPU device that offers the same calls.

The choice is made once. Everything above goes through `calls.py` and cannot tell the difference.
"""

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bindings.errors import DeviceError

KINDS = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Backend:
    """The three APIs of one kind of device; each attribute has the API's own function names."""

    kind: str
    driver: ModuleType
    nvrtc: ModuleType
    cublas: ModuleType
    why: str  # why this kind was chosen, for the one line that a tool prints


_selected: Backend | None = None


def _load(kind: str, why: str) -> Backend:
    root = {"cuda": "cuda.bindings.", "cpu": "bindings.cpu."}[kind]
    cublas = "bindings.cublas_api" if kind == "cuda" else "bindings.cpu.cublas"
    modules = (importlib.import_module(root + "driver"), importlib.import_module(root + "nvrtc"))
    return Backend(kind, *modules, importlib.import_module(cublas), why)


def why_no_gpu() -> str:
    """One line saying why no GPU can be used, or an empty string if one can."""
    from cuda.bindings import driver
    from cuda.pathfinder import DynamicLibNotFoundError

    try:
        status = driver.cuInit(0)[0]
        if status == driver.CUresult.CUDA_SUCCESS:
            status, count = driver.cuDeviceGetCount()
            return "" if count else "the NVIDIA driver finds no GPU"
    except (DynamicLibNotFoundError, RuntimeError):  # RuntimeError: a driver too old for a symbol asked of it
        return "no NVIDIA driver found"
    return f"the NVIDIA driver answers {status.name}"


def requested_kind(kind: str | None) -> str:
    """The kind asked for: the argument, else $CUTAWAY_DEVICE, else `auto`. Raises DeviceError on another word."""
    source = "--device" if kind else "CUTAWAY_DEVICE"
    kind = kind or os.environ.get("CUTAWAY_DEVICE") or "auto"
    if kind not in KINDS:
        raise DeviceError(f"{source} is {kind!r}; it must be one of {', '.join(KINDS)}")
    return kind


def select(kind: str | None = None) -> Backend:
    """Choose the backend of this process; a second, different choice is refused.

    Raises DeviceError when `cuda` is asked for and no GPU can be used.
    """
    global _selected
    kind = requested_kind(kind)
    if _selected is not None:
        if kind not in ("auto", _selected.kind):
            raise DeviceError(f"this process already drives {_selected.kind!r}; start another one for {kind!r}")
        return _selected
    why = "" if kind == "cpu" else why_no_gpu()
    if kind == "cuda" and why:
        raise DeviceError(f"--device cuda: {why}; install the driver, or run with --device cpu")
    _selected = _load("cpu" if kind == "cpu" or why else "cuda", why)
    return _selected


def entry_point(api: str, name: str) -> Any:
    """The backend's function `name` of `api` (`driver`, `nvrtc` or `cublas`). Raises AttributeError if it has none."""
    return getattr(getattr(_selected or select(), api), name)
