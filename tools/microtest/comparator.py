"""Compares what a kernel wrote with a float64 reference, element by element, against a derived bound.

The test is positive, `|got - expected| <= bound`: NaN compares false with everything, so a NaN is always a failure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def assert_close(got: NDArray, expected: NDArray, bound: ArrayLike, name: str = "output") -> None:
    """Assert that every element of `got` lies within `bound` of `expected`.

    Args:
        got: what the device computed: float32 (bf16 widened), float16 or an integer type, of any shape.
        expected: the reference, float64 or an integer type, of the same shape, finite.
        bound: the largest |got - expected| allowed; broadcast to the shape. 0 asks for equality.
        name: what the message calls the array.

    Raises:
        AssertionError: the shapes differ, one is of integers and the other of floats, there is nothing to compare, the
            reference or the bound is not finite or the bound is negative (a broken test), or an element is off; the
            message names the worst one.
    """
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    assert got.size, f"{name}: there is nothing to compare, the shape is {got.shape}"
    assert _kind(got) == _kind(expected), f"{name}: dtype {got.dtype} cannot hold a reference of {expected.dtype}"
    allowed = np.broadcast_to(np.asarray(bound, dtype=np.float64), expected.shape)
    assert np.isfinite(expected).all(), f"{name}: the reference itself is not finite"
    assert np.isfinite(allowed).all() and (allowed >= 0).all(), f"{name}: the bound itself is negative or not finite"

    errors = difference(got, expected)
    close = errors <= allowed
    assert close.all(), _describe(name, got, expected, allowed, errors, close)


def assert_same_bits(got: NDArray, expected: NDArray, name: str = "output") -> None:
    """Assert that two arrays of one dtype hold the same bits (so NaN equals NaN, and 0.0 differs from -0.0).

    Raises AssertionError where there is nothing to compare, too.
    """
    assert got.dtype == expected.dtype, f"{name}: dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    assert got.size, f"{name}: there is nothing to compare, the shape is {got.shape}"
    bits = np.dtype(f"u{got.dtype.itemsize}")
    differs = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits)
    first = np.argwhere(differs)[:1].tolist()
    assert not differs.any(), (
        f"{name}: {int(differs.sum())} of {got.size} elements differ in their bits, the first at index {first[0]}: "
        f"{got[tuple(first[0])]} and {expected[tuple(first[0])]}"
    )


def _kind(array: NDArray) -> str:
    return {"f": "float", "i": "integer", "u": "integer"}.get(array.dtype.kind, array.dtype.name)


def difference(got: NDArray, expected: NDArray) -> NDArray[np.float64]:
    """|got - expected|, exact for integers of any type; NaN where one of the two is NaN."""
    if _kind(got) == "float":
        with np.errstate(invalid="ignore"):
            return np.abs(got.astype(np.float64) - expected.astype(np.float64))
    # As Python's integers: the difference of two uint64 may fit no 64-bit type.
    return np.abs(got.astype(object) - expected.astype(object)).astype(np.float64)


def _describe(name: str, got: NDArray, expected: NDArray, allowed: NDArray, errors: NDArray, close: NDArray) -> str:
    """How many elements are off, and the worst: a NaN or an infinity first, else the largest share of its bound."""
    with np.errstate(divide="ignore", invalid="ignore"):
        badness = np.where(close, -1.0, errors / allowed)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(badness), np.inf, badness)), got.shape)
    count, place = int((~close).sum()), [int(i) for i in worst]
    return (
        f"{name}: {count} of {close.size} elements are off, the worst at index {place}: got {got[worst]}, "
        f"expected {expected[worst]}, difference {errors[worst]:.3g}, allowed {allowed[worst]:.3g}"
    )
