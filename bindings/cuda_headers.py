"""Where NVIDIA's own headers lie: cuda_bf16.h and its kin, for NVRTC and for the CPU device.

NVRTC takes those of its own CUDA version. The CPU device takes CUDA 13's wherever they are, which the core dependencies
bring: no driver has a say there, and CUDA 12's package lacks what a host compiler needs.
"""

import re
from functools import lru_cache
from pathlib import Path

from cuda.pathfinder import find_nvidia_header_directory

from bindings.errors import CompileError
from bindings.toolkit import cuda_major, package, packaged_file

_VERSION = re.compile(r"#define\s+CUDART_VERSION\s+(\d+)")


def headers_for(arch: str) -> Path:
    """The folder to compile a kernel for `arch` ("cpu", "sm_90a") against. Raises CompileError if it is missing."""
    return host_cuda_headers() if arch == "cpu" else cuda_headers()


@lru_cache(maxsize=1)
def cuda_headers() -> Path:
    """The folder for NVRTC. Raises CompileError if it is missing or of another CUDA version than this process's."""
    packaged = packaged_file("cudart", "cuda_bf16.h") if cuda_major() == 12 else None
    folder = packaged.parent if packaged else _found()
    if folder is None or _major_of(folder) != cuda_major():
        raise CompileError(f"CUDA {cuda_major()}'s headers are missing; run: pip install {package('cudart')}")
    return folder


@lru_cache(maxsize=1)
def host_cuda_headers() -> Path:
    """The folder for a host compiler. Raises CompileError if it, or what cuda_bf16.h includes there, is missing."""
    folder = _found()
    if folder is None:
        raise CompileError("CUDA's headers are missing; run: pip install nvidia-cuda-runtime")
    if not (folder / "crt" / "host_defines.h").is_file():
        raise CompileError("CUDA's headers for a host compiler are missing; run: pip install nvidia-cuda-crt")
    return folder


def _found() -> Path | None:
    """What cuda.pathfinder finds; the newest version where there are several."""
    found = find_nvidia_header_directory("cudart")
    return Path(found) if found and (Path(found) / "cuda_bf16.h").is_file() else None


def _major_of(folder: Path) -> int:
    """The CUDA major version of a folder of headers, or 0 where they do not say it."""
    api = folder / "cuda_runtime_api.h"
    version = _VERSION.search(api.read_text(encoding="utf-8", errors="replace")) if api.is_file() else None
    return int(version[1]) // 1000 if version else 0
