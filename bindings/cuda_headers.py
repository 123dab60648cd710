"""Where NVIDIA's own headers lie: cuda_bf16.h and its kin, for NVRTC and for the CPU device alike."""

from functools import lru_cache
from pathlib import Path

from cuda.pathfinder import find_nvidia_header_directory

from bindings.errors import CompileError


@lru_cache(maxsize=1)
def cuda_headers() -> Path:
    """The folder of cuda_bf16.h, enough for NVRTC. Raises CompileError if it is missing."""
    found = find_nvidia_header_directory("cudart")
    if found and (Path(found) / "cuda_bf16.h").is_file():
        return Path(found)
    raise CompileError("CUDA's headers are missing; run: pip install nvidia-cuda-runtime")


@lru_cache(maxsize=1)
def host_cuda_headers() -> Path:
    """The same folder, complete for a host compiler. Raises CompileError if what cuda_bf16.h includes is missing."""
    if (cuda_headers() / "crt" / "host_defines.h").is_file():
        return cuda_headers()
    raise CompileError("CUDA's headers for a host compiler are missing; run: pip install nvidia-cuda-crt")
