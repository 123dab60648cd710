"""Where NVIDIA's own headers lie: cuda_bf16.h and its kin, for NVRTC and for the CPU device alike."""

from functools import lru_cache
from pathlib import Path

from cuda.pathfinder import find_nvidia_header_directory

from bindings.errors import CompileError


@lru_cache(maxsize=1)
def cuda_headers() -> Path:
    """The folder of cuda_bf16.h. Raises CompileError if it, or what it includes, is missing."""
    found = find_nvidia_header_directory("cudart")
    folder = Path(found) if found else None
    if folder and (folder / "cuda_bf16.h").is_file() and (folder / "crt" / "host_defines.h").is_file():
        return folder
    raise CompileError("CUDA's headers are missing; run: pip install nvidia-cuda-runtime nvidia-cuda-crt")
