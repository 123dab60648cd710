"""The rounding errors that the bounds of the kernel tests are derived from.

A computed value is the true one times (1 + d) with |d| at most the format's unit roundoff: half the distance from 1 to
the next number of that format. Errors of a few such steps are added; their products (2^-48) are below notice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bindings.dtypes import bf16_to_float32, float32_to_bf16

F32_EPS = 2.0**-24  # float32 keeps 24 significant bits
BF16_EPS = 2.0**-8  # bf16 keeps 8
BF16_TINY = 2.0**-134  # half of the smallest subnormal: the error of rounding a value next to zero


def sum_eps(count: int) -> float:
    """Relative error of a float32 sum of `count` non-negative terms, taken in any order.

    A term passes through fewer than `count` additions whatever their order is (log2(count) in a tree, all of them in
    a running sum): one bound for every rung of a ladder.
    """
    return count * F32_EPS


def expf_eps(exponent: ArrayLike) -> NDArray[np.float64]:
    """Relative error of __expf: 2 + floor(1.173 * |x|) units in the last place, two roundoffs each.

    Source: CUDA C++ Programming Guide, "Mathematical Functions", table of intrinsic functions.
    """
    return 2 * F32_EPS * (2 + 1.173 * np.abs(np.asarray(exponent, dtype=np.float64)))


def bf16_bound(expected: ArrayLike, float32_error: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Largest error of a result that is computed in float32 to within `float32_error`, then rounded to bf16 once."""
    return BF16_EPS * (np.abs(expected) + float32_error) + float32_error + BF16_TINY


def round_to_bf16(values: ArrayLike) -> NDArray[np.float32]:
    """The bf16 numbers nearest to `values`, as float32: what a kernel's input holds."""
    return bf16_to_float32(float32_to_bf16(np.asarray(values, dtype=np.float32)))
