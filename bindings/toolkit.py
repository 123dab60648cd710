"""Which CUDA this process works with, and the files of that version: libraries, headers, packages.

cuda-bindings decides: version 12.9 speaks to a driver of CUDA 12 or newer, 13 to one of CUDA 13. Whatever else of CUDA
is loaded or compiled against must have its major version, though others may lie beside it: the core dependencies bring
CUDA 13's headers even where the extra `[cuda12]` has been installed.
"""

import ctypes
import os
import re
from functools import cache
from importlib import metadata
from pathlib import Path

from bindings.errors import DeviceError

# NVIDIA's packages for CUDA 13; those for CUDA 12 have `-cu12` behind the name.
PACKAGES = {"nvrtc": "nvidia-cuda-nvrtc", "cublas": "nvidia-cublas", "cudart": "nvidia-cuda-runtime"}
TITLES = {"nvrtc": "NVRTC", "cublas": "cuBLAS"}
# Libraries that must be loaded first, because the loader would not find them beside the one that needs them.
_NEEDED_FIRST = {"cublas": ("libcublasLt",)}
# The first driver that has cuFuncGetParamInfo. Older ones of CUDA 12 have all else that is called here.
PARAM_INFO = 12040
# The oldest Linux drivers of a CUDA major version (NVIDIA, "CUDA Toolkit Release Notes", table of driver versions).
DRIVERS = {12: "525", 13: "580"}


@cache
def bindings_version() -> str:
    """The version of cuda-bindings, as "13.5.0"."""
    return metadata.version("cuda-bindings")


def cuda_major() -> int:
    """The CUDA major version of this process: 12 or 13."""
    return int(bindings_version().split(".")[0])


def extra() -> str:
    """The command that installs what this process needs of CUDA."""
    return 'pip install -e ".[cuda12]"' if cuda_major() == 12 else 'pip install -e ".[cuda]"'


def package(library: str) -> str:
    """The name of NVIDIA's package of a library in this process's CUDA version."""
    return PACKAGES[library] + ("-cu12" if cuda_major() == 12 else "")


def packaged_file(library: str, name: str) -> Path | None:
    """A file called `name` of that package, or None where the package is not installed or has no such file."""
    try:
        files = metadata.distribution(package(library)).files or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == name)
    return next((path for path in paths if path.is_file()), None)


def _preload_cuda12(library: str) -> None:
    """Load the package's library by its path, which cuda.pathfinder then takes; by itself it prefers CUDA 13's."""
    for name in (*_NEEDED_FIRST.get(library, ()), f"lib{library}"):
        path = packaged_file(library, f"{name}.so.12")
        if path is not None:
            ctypes.CDLL(str(path), os.RTLD_NOW | os.RTLD_GLOBAL)


@cache
def load_library(library: str) -> Path:
    """Load `nvrtc` or `cublas` in this process's CUDA version, and return its file.

    Raises DeviceError when there is none, or only one of another version, with the command that installs it.
    """
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        if cuda_major() == 12:
            _preload_cuda12(library)
        path = load_nvidia_dynamic_lib(library).abs_path
    except (DynamicLibNotFoundError, OSError) as error:
        raise DeviceError(f"{TITLES[library]} is missing; run: {extra()}") from error
    _check_major(library, str(path))
    return Path(str(path))


def _check_major(library: str, path: str) -> None:
    found = re.search(r"\.so\.(\d+)", Path(path).name)
    if found and int(found[1]) != cuda_major():
        wanted = f"cuda-bindings {bindings_version()} needs that of CUDA {cuda_major()}"
        raise DeviceError(f"{TITLES[library]} at {path} is of CUDA {found[1]}, {wanted}; run: {extra()}")


def driver_shortfall(version: int) -> tuple[str, str] | None:
    """(what is wrong, what to do) when a driver of this cuDriverGetVersion is too old for cuda-bindings, else None.

    Within a major version every driver loads what every NVRTC makes ("CUDA Compatibility", minor version
    compatibility): a cubin, that is, not PTX.
    """
    major, minor = version // 1000, version % 1000 // 10
    if major >= cuda_major():
        return None
    # One that does not say (see backend.driver_version) is from before 12.0, or no driver at all.
    made_for = f"is for CUDA {major}.{minor}" if version else "is older than CUDA 12.0 (or the toolkit's stub)"
    problem = f"the NVIDIA driver {made_for}, too old for cuda-bindings {bindings_version()}"
    update = f"update the driver to {DRIVERS[cuda_major()]} or newer"
    if cuda_major() > 12 and major == 12:
        return problem, f'run: pip install -e ".[cuda12]" (or {update})'
    return problem, update
