"""Where NVIDIA's command-line programs lie: none of the packages that Cutaway needs brings them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bindings.errors import CutawayError

# The package that brings each, for CUDA 13. The toolkit brings both, too.
PACKAGES = {"nvdisasm": "nvidia-cuda-nvdisasm", "compute-sanitizer": "nvidia-cuda-sanitizer-api"}


def folders() -> Iterator[Path]:
    """Where to look behind $PATH: the toolkit that the environment names, the usual place, this Python's wheels."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    yield from (Path("/usr/local/cuda"), Path("/opt/cuda"))
    for folder in sys.path:
        yield from sorted(Path(folder).glob("nvidia/cu*"))


def find_program(*names: str) -> Path:
    """The first of these programs that is there. Raises CutawayError that says where it was looked for."""
    places = list(dict.fromkeys(folders()))
    for name in names:
        on_path = shutil.which(name)
        inside = [folder / part / name for folder in places for part in ("bin", name)]
        for path in [Path(on_path)] if on_path else inside:
            if path.is_file() and os.access(path, os.X_OK):
                return path
    looked = ", ".join(["$PATH", *map(str, places)])
    remedy = f"run pip install {PACKAGES[names[0]]}, or install the CUDA toolkit"
    raise CutawayError(f"no {' or '.join(names)} in {looked}: {remedy}")
