"""Probes: small kernels, each around one intrinsic, that run on a GPU and on the CPU device alike.

A probe's inputs follow from its name; what a GPU makes of them is kept in tests/fixtures/intrinsics.npz.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bindings.device import Buffer, Device

# C++ type -> the NumPy type that carries its bits
CARRIERS: dict[str, DTypeLike] = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "uint16_t": np.uint16,
    "bf16": np.uint16,
    "__nv_bfloat162": np.uint32,
    "__half": np.float16,
    "__half2": np.uint32,
}

Inputs = tuple[NDArray, ...]
# (got, expected, inputs) -> which elements agree
Agreement = Callable[[NDArray, NDArray, Inputs], NDArray[np.bool_]]

_PROLOGUE = """#include "common.cuh"
#include "ptx.cuh"
#include <cuda_fp16.h>
"""
_NAMES = "abc"


@dataclass(frozen=True)
class Probe:
    """One kernel: `body` computes `outputs` elements of `out` a thread from the arrays a, b, c.

    In `body` stand `i`, the thread's number; `x`, `y`, `z`, element i of each array; and `out`. Without a semicolon it
    is the expression for out[i]. `recipe` makes the inputs; the first is as long as there are threads times
    `elements`. Blocks have `threads` threads, a whole number of warps. Outputs are zeros before.
    """

    name: str
    out: str
    arguments: tuple[str, ...]
    body: str
    recipe: Callable[[np.random.Generator], Inputs]
    agrees: Agreement
    outputs: int = 1
    elements: int = 1
    threads: int = 64

    @property
    def entry(self) -> str:
        """The kernel's name."""
        return "probe_" + re.sub(r"\W", "_", self.name)

    @property
    def source(self) -> str:
        """The kernel."""
        arrays = ", ".join(f"const {kind}* {name}" for kind, name in zip(self.arguments, _NAMES, strict=False))
        values = (value for value in zip("xyz", self.arguments, _NAMES, strict=False) if self._uses(value[0]))
        elements = "".join(f"  const {kind} {value} = {array}[i];\n" for value, kind, array in values)
        body = self.body if ";" in self.body else f"out[i] = {self.body};"
        return (
            f'extern "C" __global__ void {self.entry}({self.out}* out, {arrays}) {{\n'
            f"  const int i = blockIdx.x * blockDim.x + threadIdx.x;\n{elements}  {body}\n}}\n"
        )

    def _uses(self, name: str) -> bool:
        return re.search(rf"\b{name}\b", self.body) is not None

    def inputs(self) -> Inputs:
        """The same at every call."""
        arrays = self.recipe(np.random.default_rng(zlib.crc32(self.name.encode())))
        carried = zip(arrays, self.arguments, strict=True)
        return tuple(np.ascontiguousarray(array, CARRIERS[kind]) for array, kind in carried)

    def fingerprint(self) -> int:
        """Of all that the outputs depend on: a table made by another kernel or of other inputs says nothing."""
        return zlib.crc32(b"".join(array.tobytes() for array in self.inputs()), zlib.crc32(self.source.encode()))


def source_of(probes: Sequence[Probe]) -> str:
    """A .cu with the kernels of all probes."""
    return "\n".join((_PROLOGUE, *(probe.source for probe in probes)))


@contextmanager
def _uploaded(device: Device, arrays: Sequence[NDArray]) -> Iterator[list[Buffer]]:
    buffers = [device.alloc(array.nbytes, f"probe {number}") for number, array in enumerate(arrays)]
    try:
        for buffer, array in zip(buffers, arrays, strict=True):
            device.copy_in(buffer.address, array)
        yield buffers
    finally:
        for buffer in buffers:
            buffer.free()


def _run(device: Device, source: Path, probe: Probe) -> NDArray:
    inputs = probe.inputs()
    count = len(inputs[0]) // probe.elements
    assert count % probe.threads == 0 and probe.threads % 32 == 0, f"{probe.name}: a warp would not be full"
    out = np.zeros(count * probe.outputs, CARRIERS[probe.out])
    names = ("out", *_NAMES[: len(inputs)])
    kernel = device.kernels.get(str(source), probe.entry, {}, [(name, None) for name in names])
    with _uploaded(device, (out, *inputs)) as buffers:
        addresses = [buffer.address for buffer in buffers]
        kernel.launch(device.stream, (count // probe.threads, 1, 1), (probe.threads, 1, 1), addresses)
        device.copy_out(out, addresses[0])
    return out


def run(device: Device, probes: Sequence[Probe]) -> dict[str, NDArray]:
    """The outputs of every probe on this device, by name."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "intrinsics.cu"
        source.write_text(source_of(probes))
        return {probe.name: _run(device, source, probe) for probe in probes}
