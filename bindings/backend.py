"""Which device this process drives: a GPU through NVIDIA's libraries, or the CPU device that offers the same calls.

The choice is made once. Everything above goes through `calls.py` and cannot tell the difference.
"""

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bindings.errors import HINTS, DeviceError
from bindings.toolkit import driver_shortfall

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
    names = {
        "cuda": ("cuda.bindings.driver", "bindings.nvrtc_api", "bindings.cublas_api"),
        "cpu": ("bindings.cpu.driver", "bindings.cpu.nvrtc", "bindings.cpu.cublas"),
    }[kind]
    driver, nvrtc, cublas = (importlib.import_module(name) for name in names)
    return Backend(kind, driver, nvrtc, cublas, why)


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU can be used, and what to do about it."""

    reason: str
    remedy: str


NO_DRIVER = NoGpu("no NVIDIA driver found", "install the driver")


def driver_version() -> int | None:
    """The CUDA version of the driver, as 12040 for 12.4; 0 where it does not say, None where there is no driver."""
    from cuda.bindings import driver
    from cuda.pathfinder import DynamicLibNotFoundError

    try:
        status, version = driver.cuDriverGetVersion()
        return int(version) if status == driver.CUresult.CUDA_SUCCESS else 0
    except DynamicLibNotFoundError:
        return None
    except RuntimeError:  # cuda-bindings looks every function up by cuGetProcAddress_v2, which came with CUDA 12.0
        return 0


def find_gpu() -> NoGpu | None:
    """None if a GPU can be used, else why not."""
    from cuda.bindings import driver

    version = driver_version()
    if version is None:
        return NO_DRIVER
    shortfall = driver_shortfall(version)
    if shortfall is not None:
        return NoGpu(*shortfall)
    (status,) = driver.cuInit(0)
    if status == driver.CUresult.CUDA_SUCCESS:
        status, count = driver.cuDeviceGetCount()
        if status == driver.CUresult.CUDA_SUCCESS and count:
            return None
        status = status or driver.CUresult.CUDA_ERROR_NO_DEVICE
    return NoGpu(f"the NVIDIA driver answers {status.name}", HINTS.get(status.name, "see what nvidia-smi says"))


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
    missing = None if kind == "cpu" else find_gpu()
    if kind == "cuda" and missing:
        raise DeviceError(f"--device cuda: {missing.reason}; {missing.remedy}, or run with --device cpu")
    _selected = _load("cpu" if kind == "cpu" or missing else "cuda", _why(missing))
    return _selected


def select_nvidia() -> None:
    """Choose NVIDIA's libraries without looking whether they can be used: for who asks what is wrong with them."""
    global _selected
    _selected = _load("cuda", "")


def _why(missing: NoGpu | None) -> str:
    """What to tell a person who left the choice to us: a machine without a driver needs no advice."""
    if missing is None or missing == NO_DRIVER:
        return missing.reason if missing else ""
    return f"{missing.reason}; {missing.remedy}"


def entry_point(api: str, name: str) -> Any:
    """The backend's function `name` of `api` (`driver`, `nvrtc` or `cublas`). Raises AttributeError if it has none."""
    return getattr(getattr(_selected or select(), api), name)
