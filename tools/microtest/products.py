"""The matrix product as an operation like the others, so that it is checked and timed as they are.

It has no `.cu` of ours: cuBLAS brings its own kernels (on the CPU device, bindings/cpu/gemm.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bindings.cublas import Blas
from bindings.device import Device, Stream
from bindings.dtypes import BF16
from engine.spec import In, Launch, Op, Out


@dataclass(frozen=True, eq=False)
class Product(Op):
    """`out[M, N] = a[M, K] @ b[N, K]^T` through a cuBLAS handle on each stream that it was called with."""

    handles: dict[Stream, Blas] = field(default_factory=dict)

    def __call__(self, stream: Stream, *, dependent: bool = False, **given: Any) -> None:
        """Check the operands against the spec and give the product to the stream. `dependent` asks for nothing here."""
        self.bind(given)
        self.prepare(stream.device, stream).gemm(given["out"], given["a"], given["b"], transpose_b=True)

    def prepare(self, device: Device, stream: Stream) -> Blas:
        """The handle of this stream, made at its first use: it allocates, which no capture may."""
        if stream not in self.handles:
            self.handles[stream] = Blas(device, stream)
        return self.handles[stream]

    def close(self) -> None:
        """Release every handle."""
        while self.handles:
            self.handles.popitem()[1].close()


def _no_launch(_: Any) -> Launch:
    raise AssertionError("a product is no launch of ours")


GEMM = Product(
    "gemm",
    source="",
    entry="gemm",
    summary="a linear layer's matrix product, by cuBLAS",
    args=(Out("out", BF16, "M N"), In("a", BF16, "M K"), In("b", BF16, "N K")),
    launch=_no_launch,
    bytes=lambda s: 2 * (s.M * s.K + s.N * s.K + s.M * s.N),
    flops=lambda s: 2 * s.M * s.N * s.K,
)
