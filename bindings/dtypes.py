"""Element types of device memory, and the rounding between them and NumPy.

NumPy has no bfloat16, so a bf16 array travels as `uint16` bits (its carrier). bf16 is the upper half of a float32:
the same 8-bit exponent, 7 fraction bits instead of 23. Widening is a shift; narrowing rounds to nearest, ties to even.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DType:
    """An element type: its name, its size in bytes, and the NumPy dtype that carries its bits on the host."""

    name: str
    itemsize: int
    carrier: np.dtype

    def __repr__(self) -> str:
        return self.name


def _dtype(name: str, carrier: type) -> DType:
    return DType(name, np.dtype(carrier).itemsize, np.dtype(carrier))


BF16 = _dtype("bf16", np.uint16)
F16 = _dtype("f16", np.float16)
F32 = _dtype("f32", np.float32)
I32 = _dtype("i32", np.int32)
I64 = _dtype("i64", np.int64)
U8 = _dtype("u8", np.uint8)
U32 = _dtype("u32", np.uint32)
U64 = _dtype("u64", np.uint64)

FLOATS = (BF16, F16, F32)


def float32_to_bf16(values: NDArray) -> NDArray[np.uint16]:
    """Round float32 values to bf16 bits, to nearest, ties to even; NaN stays NaN.

    Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly when rounding up is due.
    """
    floats = np.ascontiguousarray(values, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = bits >> np.uint32(16)  # in place from here on: a loaded model passes through these lines
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    halves = rounded.astype(np.uint16)
    if np.isnan(floats.max(initial=0)):  # the carry could turn a NaN with a long fraction into an infinity
        halves[np.isnan(floats)] = np.uint16(0x7FC0)
    return halves


def bf16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bf16 bits to float32, exactly."""
    return (np.ascontiguousarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(values: NDArray, dtype: DType) -> NDArray:
    """Host values -> the carrier array of `dtype`, rounding floats to nearest even."""
    if dtype is BF16:
        return float32_to_bf16(np.asarray(values))
    return np.ascontiguousarray(values).astype(dtype.carrier)


def decode(carrier: NDArray, dtype: DType) -> NDArray:
    """The carrier array of `dtype` -> host values (bf16 and f16 widened to float32)."""
    if dtype is BF16:
        return bf16_to_float32(carrier)
    return carrier.astype(np.float32) if dtype is F16 else carrier
