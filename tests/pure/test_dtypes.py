"""bf16 rounding against its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bindings.dtypes import BF16, F16, F32, I32, bf16_to_float32, decode, encode, float32_to_bf16


@given(hnp.arrays(np.float32, 64, elements=st.floats(width=32, allow_nan=False)))
def test_rounds_to_the_nearest_bf16(values):
    """The neighbours of a bf16 value are one step of its bits away; none may lie nearer than the one chosen."""
    bits = float32_to_bf16(values)
    exact = values.astype(np.float64)
    finite = np.isfinite(bf16_to_float32(bits))
    for step in (-1, 1):
        with np.errstate(invalid="ignore", over="ignore"):
            neighbour = bf16_to_float32((bits.astype(np.int32) + step).astype(np.uint16)).astype(np.float64)
            chosen = np.abs(bf16_to_float32(bits).astype(np.float64) - exact)
            other = np.abs(neighbour - exact)
        comparable = finite & np.isfinite(neighbour)
        assert (chosen[comparable] <= other[comparable]).all()


def test_every_tie_goes_to_even_and_its_neighbours_to_the_nearest():
    """Random floats hardly ever lie half way between two bf16 numbers."""
    below = np.arange(2**16, dtype=np.uint32)
    below = below[below & 0x7FFF < 0x7F80]  # the finite ones; above the largest comes infinity
    halfway = below << np.uint32(16) | np.uint32(0x8000)
    for offset, expected in ((-1, below), (0, below + below % 2), (1, below + 1)):
        values = (halfway + np.uint32(offset % 2**32)).astype(np.uint32).view(np.float32)
        assert (float32_to_bf16(values) == expected).all()


def test_every_bf16_survives_the_round_trip():
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    widened = bf16_to_float32(bits)
    numbers = ~np.isnan(widened)
    assert (float32_to_bf16(widened)[numbers] == bits[numbers]).all()


def test_nan_stays_nan():
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(bf16_to_float32(float32_to_bf16(nans))).all()


def test_overflow_rounds_to_infinity():
    largest = np.array([3.4028235e38], np.float32)
    assert np.isposinf(bf16_to_float32(float32_to_bf16(largest))).all()


def test_encode_and_decode_agree_with_the_carriers():
    values = np.array([[1.0, -2.5], [0.1, 65504.0]])
    for dtype in (BF16, F16, F32):
        carrier = encode(values, dtype)
        assert carrier.dtype == dtype.carrier and carrier.shape == values.shape
        np.testing.assert_allclose(decode(carrier, dtype), values, rtol=2**-8)
    assert encode(np.array([7]), I32).dtype == np.int32
