"""The comparator itself: a wrong answer of each kind must fail, a right one pass."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bindings.dtypes import float32_to_bf16
from tools.microtest.comparator import assert_close, assert_same_bits
from tools.microtest.rounding import BF16_EPS, F32_EPS, bf16_bound, round_to_bf16

EXPECTED = np.linspace(1.0, 2.0, 12).reshape(3, 4)


def right() -> np.ndarray:
    return EXPECTED.astype(np.float32)


def test_a_rounded_answer_passes() -> None:
    assert_close(right(), EXPECTED, F32_EPS * EXPECTED)


def test_equality_is_a_bound_of_zero() -> None:
    assert_close(np.arange(5, dtype=np.int32), np.arange(5), 0)
    with pytest.raises(AssertionError, match="1 of 5 elements"):
        assert_close(np.array([0, 1, 2, 3, 5], dtype=np.int32), np.arange(5), 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0, 1.4])
def test_one_wrong_element_fails_and_is_named(wrong: float) -> None:
    got = right()
    got[1, 2] = wrong
    with pytest.raises(AssertionError, match=r"out: 1 of 12 elements are off, the worst at index \[1, 2\]"):
        assert_close(got, EXPECTED, 0.01, "out")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("position", range(12))
def test_no_position_is_overlooked(position: int, wrong: float) -> None:
    got = right()
    got.flat[position] = wrong
    place = re.escape(str([position // 4, position % 4]))
    with pytest.raises(AssertionError, match=f"1 of 12 elements are off, the worst at index {place}"):
        assert_close(got, EXPECTED, 0.01)
    with pytest.raises(AssertionError, match=f"1 of 12 elements differ in their bits, the first at index {place}"):
        assert_same_bits(got, right())


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinity_is_far_from_the_largest_number(sign: int) -> None:
    largest = np.full(2, sign * np.finfo(np.float32).max, np.float64)
    with pytest.raises(AssertionError, match="2 of 2 elements are off"):
        assert_close(np.full(2, sign * np.inf, np.float32), largest, 1e300)


def test_no_bound_makes_an_infinity_right() -> None:
    infinite = np.full(2, np.inf)
    for expected in (infinite, -infinite):
        with pytest.raises(AssertionError, match="the reference itself"):
            assert_close(infinite, expected, 1.0)
    with pytest.raises(AssertionError, match="the bound itself"):
        assert_close(infinite, np.zeros(2), infinite)


def test_a_nan_is_not_right_where_a_nan_was_expected() -> None:
    nan = np.full(2, np.nan)
    with pytest.raises(AssertionError, match="the reference itself"):
        assert_close(nan, nan, 1.0)


def test_subnormals_are_not_taken_for_zero() -> None:
    steps = np.arange(4, dtype=np.uint32).view(np.float32)  # 0 and the three smallest numbers
    exact = steps.astype(np.float64)
    assert_close(steps, exact, 0.0)
    with pytest.raises(AssertionError, match="3 of 4 elements are off"):
        assert_close(np.zeros(4, np.float32), exact, 0.0)
    assert_close(np.roll(steps, 1)[1:], exact[1:], 2.0**-149)
    with pytest.raises(AssertionError, match="3 of 3 elements are off"):
        assert_close(np.roll(steps, 1)[1:], exact[1:], 2.0**-150)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_nothing_is_no_right_answer(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_close(np.zeros(shape, np.float32), np.zeros(shape), 0.0)
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_same_bits(np.zeros(shape), np.zeros(shape))


def test_a_nan_is_the_worst_of_several() -> None:
    got = right()
    got[0, 0], got[2, 3] = 1e30, np.nan
    with pytest.raises(AssertionError, match=r"2 of 12 elements are off, the worst at index \[2, 3\]: got nan"):
        assert_close(got, EXPECTED, 0.01)


@pytest.mark.parametrize("got", [right()[::-1], np.zeros((3, 4), np.float32), np.full((3, 4), np.nan, np.float32)])
def test_a_wholly_wrong_answer_fails(got: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="elements are off"):
        assert_close(got, EXPECTED, 0.01)


def test_a_transposed_square_fails() -> None:
    square = np.arange(9.0).reshape(3, 3)
    with pytest.raises(AssertionError, match="6 of 9 elements"):
        assert_close(square.T.astype(np.float32), square, 0.5)


@pytest.mark.parametrize("shape", [(4, 3), (12,), (1, 3, 4), (3, 1), ()])
def test_another_shape_fails_even_where_it_would_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones(shape, np.float32), EXPECTED, 100.0)


def test_integers_are_no_floats() -> None:
    with pytest.raises(AssertionError, match="dtype uint16"):
        assert_close(float32_to_bf16(right()), EXPECTED, 1e9)  # bits instead of values
    with pytest.raises(AssertionError, match="dtype float32"):
        assert_close(np.arange(3, dtype=np.float32), np.arange(3), 0)
    for other in (np.arange(3, dtype=np.complex64), np.zeros(3, bool)):
        with pytest.raises(AssertionError, match=f"dtype {other.dtype}"):
            assert_close(other, np.arange(3), 10)


@pytest.mark.parametrize("bound", [-1.0, np.nan, np.inf, -(2.0**-1074)])
def test_a_bound_that_says_nothing_is_refused(bound: float) -> None:
    with pytest.raises(AssertionError, match="the bound itself"):
        assert_close(right(), EXPECTED, bound)
    one_of_many = np.ones((3, 4))
    one_of_many[2, 1] = bound
    with pytest.raises(AssertionError, match="the bound itself"):
        assert_close(right(), EXPECTED, one_of_many)


def test_each_element_has_its_own_bound() -> None:
    bound = np.zeros((3, 4))
    bound[0] = 1.0
    got = right()
    got[0] += 0.5
    assert_close(got, right().astype(np.float64), bound)
    with pytest.raises(AssertionError, match="4 of 12 elements"):
        assert_close(got, right().astype(np.float64), bound[::-1])
    with pytest.raises(ValueError, match="dimensions"):
        assert_close(got, EXPECTED, np.ones((2, 3, 4)))


def test_a_reference_that_is_not_finite_is_refused() -> None:
    with pytest.raises(AssertionError, match="the reference itself"):
        assert_close(np.full(3, np.inf, np.float32), np.full(3, np.inf), 1.0)


def test_integers_beyond_float64_are_compared_exactly() -> None:
    big = np.array([2**63 + 1], dtype=np.uint64)
    assert_close(big, big, 0)
    with pytest.raises(AssertionError, match="elements are off"):
        assert_close(big, big - np.uint64(1), 0)


def test_same_bits_tells_zeros_apart_and_nan_together() -> None:
    assert_same_bits(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
    with pytest.raises(AssertionError, match=r"1 of 2 elements differ in their bits, the first at index \[1\]"):
        assert_same_bits(np.array([1.0, 0.0]), np.array([1.0, -0.0]))
    with pytest.raises(AssertionError, match="dtype"):
        assert_same_bits(np.zeros(2, np.int32), np.zeros(2, np.uint32))
    with pytest.raises(AssertionError, match="shape"):
        assert_same_bits(np.zeros(2), np.zeros((2, 1)))


def test_the_bf16_bound_is_tight() -> None:
    """Rounding alone stays within the bound, and for some numbers nearly reaches it."""
    values = np.linspace(1.0, 2.0, 100_001)
    error = np.abs(round_to_bf16(values).astype(np.float64) - values)
    share = error / bf16_bound(values, F32_EPS * values)
    assert share.max() <= 1.0
    assert share.max() > 0.98
    assert round_to_bf16(np.array([1 + BF16_EPS]))[0] == 1.0  # half way: to even
