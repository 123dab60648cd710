"""When the CPU device agrees with a GPU: bit for bit where a result is exact or rounded once, else within bounds.

The bounds are those that NVIDIA documents for a GPU (CUDA C++ Programming Guide, "Mathematical Functions", standard and
intrinsic functions) and, on top, what the host's library may be off: HOST_ULPS. An ulp is the distance between two
neighbouring numbers of the output's type at the larger of the two results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bindings.dtypes import bf16_to_float32
from tests.cpu_device.intrinsics.probe import Agreement, Inputs

HOST_ULPS = 1.5  # glibc's functions are within 1; 1 / sqrtf(x) rounds twice
TINY = 2.0**-126  # the smallest normal number

Doubles = NDArray[np.float64]


def exact(got: NDArray, expected: NDArray, _: Inputs) -> NDArray[np.bool_]:
    """The same bits."""
    bits = np.dtype(f"u{got.itemsize}")
    return got.view(bits) == expected.view(bits)


def rounded(got: NDArray, expected: NDArray, inputs: Inputs) -> NDArray[np.bool_]:
    """The same bits, but a NaN for a NaN: a GPU gives 0x7fffffff, a CPU passes on the one that it was given."""
    return exact(got, expected, inputs) | (np.isnan(got) & np.isnan(expected))


def number(got: NDArray, expected: NDArray, _: Inputs) -> NDArray[np.bool_]:
    """The same number: 0 for -0 too, which of the two fminf and fmaxf give is not promised."""
    return (got == expected) | (np.isnan(got) & np.isnan(expected))


def rounded_bf16(got: NDArray, expected: NDArray, _: Inputs) -> NDArray[np.bool_]:
    """As `rounded`, for one bf16 in 16 bits or two in 32."""
    return _halves(got, expected, bf16_to_float32)


def rounded_f16(got: NDArray, expected: NDArray, _: Inputs) -> NDArray[np.bool_]:
    """As `rounded`, for one f16 in 16 bits or two in 32."""
    return _halves(got, expected, lambda words: words.view(np.float16))


def _halves(got: NDArray, expected: NDArray, decode: Callable[[NDArray], NDArray]) -> NDArray[np.bool_]:
    pair = [np.ascontiguousarray(array).view(np.uint16) for array in (got, expected)]
    nan = np.isnan(decode(pair[0])) & np.isnan(decode(pair[1]))
    return ((pair[0] == pair[1]) | nan).reshape(len(got), -1).all(axis=1)


def _doubles(array: NDArray) -> Doubles:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return array.astype(np.float64)


def _numbers(array: NDArray) -> Doubles:
    """Carriers as numbers, an infinity as the power of two where numbers end: one ulp above the largest."""
    values = _doubles(bf16_to_float32(array) if array.dtype == np.uint16 else array)
    end = 2.0**16 if array.dtype == np.float16 else 2.0**128
    return np.clip(values, -end, end)


def _ulp(values: Doubles, dtype: np.dtype) -> Doubles:
    """The distance of neighbours at `values`: of float32, bf16 (carried as uint16) or float16."""
    digits, lowest = {"float32": (23, -149), "uint16": (7, -133), "float16": (10, -24)}[dtype.name]
    _, exponent = np.frexp(values)
    return np.exp2(np.maximum(exponent - 1 - digits, lowest).astype(np.float64))


def _close(got: NDArray, expected: NDArray, allowed: Callable[[Doubles], Doubles]) -> NDArray[np.bool_]:
    """`allowed` is given the ulp of each element."""
    x, y = _numbers(got), _numbers(expected)
    with np.errstate(invalid="ignore"):
        near = np.abs(x - y) <= allowed(_ulp(np.fmax(np.abs(x), np.abs(y)), got.dtype))
    return near | (np.isnan(x) & np.isnan(y))


def ulps(gpu: float) -> Agreement:
    """Within the GPU's documented ulps and the host's."""

    def agrees(got: NDArray, expected: NDArray, _: Inputs) -> NDArray[np.bool_]:
        return _close(got, expected, lambda ulp: (gpu + HOST_ULPS) * ulp)

    return agrees


def fast(gpu: Callable[..., ArrayLike], absolute: Callable[..., ArrayLike] = lambda *_: 0.0) -> Agreement:
    """Of an intrinsic that is quick and rough: ulps, and an absolute error, as functions of the arguments.

    Below the smallest normal number nothing is promised: such a result may be 0.
    """

    def agrees(got: NDArray, expected: NDArray, inputs: Inputs) -> NDArray[np.bool_]:
        arguments = [_doubles(array) for array in inputs]
        with np.errstate(all="ignore"):
            units, offset = np.asarray(gpu(*arguments)), np.asarray(absolute(*arguments))
        units, offset = (np.nan_to_num(bound, nan=0.0, posinf=0.0) for bound in (units, offset))
        return _close(got, expected, lambda ulp: (units + HOST_ULPS) * ulp + offset + TINY)

    return agrees


def near_one(ulp: float, error: float) -> Agreement:
    """The fast logarithms: an absolute error for arguments from 0.5 to 2, ulps elsewhere."""

    def inside(x: Doubles) -> NDArray[np.bool_]:
        return (x >= 0.5) & (x <= 2)

    return fast(lambda x: np.where(inside(x), 0, ulp), lambda x: np.where(inside(x), error, 0))


def power_error(x: Doubles, y: Doubles) -> Doubles:
    """Of __powf, which is exp2(y * __log2f(x)), in ulps of the result.

    __log2f is off by 2^-22 (near 1) or 2 ulp, at most 2^-22 of itself; the product by a rounding. That is the error of
    the exponent, and ln 2 times it the relative error of the result, to which exp2's own 2 ulp come.
    """
    logarithm = np.abs(np.log2(x))
    exponent = np.abs(y) * 2.0**-22 * np.maximum(1, logarithm) + 2.0**-24 * np.abs(y) * logarithm
    return 2 + np.expm1(np.log(2) * exponent) * 2.0**24


def tangent_error(x: Doubles) -> Doubles:
    """Of __tanf, which is __sinf(x) / __cosf(x), each within the absolute error of its own; absolute."""
    sine, cosine = np.abs(np.sin(x)), np.abs(np.cos(x))
    return 2.0**-21.41 / cosine + sine * 2.0**-21.19 / cosine**2


def matrix_product(got: NDArray, expected: NDArray, inputs: Inputs) -> NDArray[np.bool_]:
    """Of mma.m16n8k16 on bf16: the sum of 16 exact products and c.

    A tensor core shifts all 17 terms to the largest exponent and cuts them off, then adds: each loses at most 2^-23 of
    the largest, which is at most the sum of all magnitudes. The CPU device rounds 16 times, by 2^-24 of it at most.
    """
    tiles = zip(*(np.split(array, len(inputs[2]) // 128) for array in inputs), strict=True)
    bound = (17 * 2.0**-23 + 16 * 2.0**-24) * np.concatenate([_magnitudes(*tile) for tile in tiles])
    x, y = _doubles(got), _doubles(expected)
    with np.errstate(invalid="ignore"):
        return (np.abs(x - y) <= bound) | (x == y) | (np.isnan(x) & np.isnan(y))


def _magnitudes(a: NDArray, b: NDArray, c: NDArray) -> Doubles:
    """|A| |B| + |C| of one tile, from its fragments and in the order of C's.

    Lane l has, of A, the words (row l/4 + 8 * (w % 2), columns 2 * (l % 4) + 8 * (w / 2) and the next); of B, rows
    2 * (l % 4) + 8 * w and the next of column l/4; of C, the rows l/4 and l/4 + 8 of columns 2 * (l % 4) and the next.
    """
    lane = np.arange(32)[:, None, None]
    row, pair = lane // 4, lane % 4 * 2
    word, half = np.arange(4)[None, :, None], np.arange(2)[None, None, :]
    matrix_a, matrix_b = np.zeros((16, 16)), np.zeros((16, 8))
    matrix_a[row + word % 2 * 8 + 0 * half, pair + word // 2 * 8 + half] = _bf16_pairs(a).reshape(32, 4, 2)
    matrix_b[pair + word[:, :2] * 8 + half, row + 0 * word[:, :2] + 0 * half] = _bf16_pairs(b).reshape(32, 2, 2)
    with np.errstate(invalid="ignore"):
        product = np.abs(matrix_a) @ np.abs(matrix_b)
    elements = product[row + word[:, :2] * 8 + 0 * half, pair + 0 * word[:, :2] + half].reshape(-1)
    return elements + np.abs(_doubles(c))


def _bf16_pairs(words: NDArray) -> Doubles:
    return _doubles(bf16_to_float32(words.view(np.uint16)))
