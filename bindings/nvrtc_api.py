"""NVRTC as cuda.bindings offers it, once its library of the right CUDA version has been loaded.

A module of functions, as the CPU device has one (`bindings/cpu/nvrtc.py`). Raises DeviceError at the first call where
NVRTC is missing.
"""

from typing import Any

from bindings.toolkit import load_library


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from cuda.bindings import nvrtc

    load_library("nvrtc")
    return getattr(nvrtc, name)
