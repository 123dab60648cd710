"""Compiles and launches the kernels of `tests/cpu_device/kernels` on the CPU device, below the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bindings.cpu import executor, nvrtc
from bindings.errors import CompileError

KERNELS = Path(__file__).resolve().parent / "kernels"
INCLUDE = Path(__file__).resolve().parents[2] / "cuda_src" / "include"
ALL_ORDERS = [
    ("ascending", 0),
    ("descending", 0),
    *((order, seed) for order in ("shuffled", "greedy") for seed in range(3)),
]


def compile_source(source: str, name: str = "test.cu", options: tuple[str, ...] = ()) -> tuple[Any, bytes, str]:
    """(status, image, log) of nvrtcCompileProgram on `source`."""
    status, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, None, None)
    assert status == nvrtc.SUCCESS
    given = [f"-I{INCLUDE}".encode(), *(option.encode() for option in options)]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(given), given)
    image, log = program.image, program.log
    assert nvrtc.nvrtcDestroyProgram(program) == (nvrtc.SUCCESS,)
    return status, image, log


@cache
def image_of(file: str) -> bytes:
    status, image, log = compile_source((KERNELS / file).read_text(), str(KERNELS / file))
    if status != nvrtc.SUCCESS:  # no failure of the test's: what it is about was never run
        raise CompileError(f"{file} does not compile", log)
    return image


def aligned_zeros(length: int, dtype: Any) -> np.ndarray:
    """An array of zeros whose address is a multiple of 16, as every allocation on a device is."""
    array = np.zeros(length + 16, dtype)
    skipped = -array.ctypes.data % 16 // array.itemsize
    return array[skipped : skipped + length]


def _as_argument(value: Any) -> ctypes._SimpleCData[Any]:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_int(value) if isinstance(value, int) else value


class Kernels:
    """The kernels of an image; `launch` takes arrays, ints (int32), floats (float32) and ctypes values."""

    def __init__(self, image: Callable[[], bytes]) -> None:
        self._image = image

    @cached_property
    def module(self) -> executor.Module:
        """Loaded when first used, so that collecting tests compiles nothing."""
        return executor.load_module(self._image())

    def launch(
        self, name: str, block: Any, *arguments: Any, grid: Any = 1, shared_bytes: int = 0
    ) -> executor.Report | None:
        values = [_as_argument(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*map(ctypes.addressof, values))
        kernel = self.module.kernels[name]
        assert len(values) == len(kernel.params)
        return executor.launch(kernel, _three(grid), _three(block), shared_bytes, ctypes.addressof(pointers))


def _three(size: Any) -> tuple[int, int, int]:
    x, y, z = (*((size,) if isinstance(size, int) else size), 1, 1)[:3]
    return x, y, z


@cache
def kernels_of(file: str) -> Kernels:
    return Kernels(lambda: image_of(file))
