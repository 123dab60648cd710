"""Intrinsics of the CPU device against NumPy and against values worked out from the CUDA manual."""

from __future__ import annotations

import math

import numpy as np

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from tests.cpu_device.simt_support import kernels_of

MATH = kernels_of("simt_math.cu")


def test_float_functions() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-3, 3, 200).astype(np.float32)
    y = random.uniform(0.1, 5, 200).astype(np.float32)
    out = np.zeros((24, 200), np.float32)
    assert MATH.launch("float_functions", 64, out, x, y, 200, grid=4) is None
    a, b = x.astype(np.float64), y.astype(np.float64)
    expected = np.stack(
        [
            *(np.exp(a), np.exp2(a), np.log(b), np.log2(b), np.log10(b), b**a, b**-0.5, 1 / b),
            *(a / b, a * b + a, a + b, a * b, np.clip(a, 0, 1), np.sin(a), np.cos(a), np.sin(a)),
            *(np.cos(a), np.tanh(a), np.vectorize(math.erf)(a), np.maximum(a, b), np.minimum(a, b)),
            *(np.maximum(a, b), np.sqrt(b), b**-0.5),
        ]
    )
    # 2 ulp for library functions; near a zero of one (log at 1) the argument's own rounding is what counts
    bound = 2.0**-22 * np.abs(expected) + 2.0**-24
    assert (np.abs(out - expected) <= bound).all()


def test_minimum_and_maximum_drop_a_nan() -> None:
    x, y = np.array([np.nan, 2, np.nan, np.inf], np.float32), np.array([2, np.nan, np.nan, -np.inf], np.float32)
    out = np.zeros((24, 4), np.float32)
    assert MATH.launch("float_functions", 4, out, x, y, 4) is None
    np.testing.assert_array_equal(out[19], [2, 2, np.nan, np.inf])
    np.testing.assert_array_equal(out[20], [2, 2, np.nan, -np.inf])
    np.testing.assert_array_equal(out[21], out[19])


def test_saturating_a_nan_gives_zero() -> None:
    out = np.full((24, 1), -1, np.float32)
    assert MATH.launch("float_functions", 1, out, np.full(1, np.nan, np.float32), np.ones(1, np.float32), 1) is None
    assert out[12, 0] == 0


def reverse_bits(value: int) -> int:
    return int(f"{value:032b}"[::-1], 2)


def signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def permuted_bytes(a: int, b: int, selector: int) -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes(bytes(source[selector >> 4 * i & 7] for i in range(4)), "little")


def integer_results(a: int, b: int) -> list[int]:
    wide = a << 32 | b
    bytes_of_a, bytes_of_b = (np.frombuffer(np.uint32(v).tobytes(), np.int8).astype(int) for v in (a, b))
    return [
        *(a.bit_count(), 32 - a.bit_length(), (a & -a).bit_length(), reverse_bits(a)),
        *(a * b >> 32, signed(a) * signed(b) >> 32, permuted_bytes(a, b, 0x5140), permuted_bytes(a, b, 0x9B3F)),
        *((b << 32 | a) << 12 >> 32, (b << 32 | a) >> 12, int((bytes_of_a * bytes_of_b).sum()) + 5),
        *(min(signed(a), signed(b)), max(a, b), wide.bit_count(), 64 - (wide >> 40).bit_length()),
        *(wide * wide >> 64, a, (wide & -wide).bit_length()),
    ]


def test_integer_functions() -> None:
    random = np.random.default_rng(1)
    x = np.concatenate([[0, 1, 0x80000000, 0xFFFFFFFF], random.integers(0, 2**32, 28)]).astype(np.uint32)
    y = random.integers(0, 2**32, 32).astype(np.uint32)
    out = np.zeros((18, 32), np.uint32)
    assert MATH.launch("integer_functions", 32, out, x, y, 32) is None
    for i in range(32):
        expected = [value & 0xFFFFFFFF for value in integer_results(int(x[i]), int(y[i]))]
        assert out[:, i].tolist() == expected, (hex(x[i]), hex(y[i]))


def test_conversions_to_integers_round_and_saturate() -> None:
    x = np.array([0.5, 1.5, -1.5, 2.7, -2.7, 3e9, -3e9, np.nan, np.inf], np.float32)
    out = np.zeros((5, 9), np.int32)
    assert MATH.launch("float_to_int", 9, out, x, 9) is None
    top, bottom = 2**31 - 1, -(2**31)
    assert out[0].tolist() == [0, 2, -2, 3, -3, top, bottom, 0, top]
    assert out[1].tolist() == [0, 1, -1, 2, -2, top, bottom, 0, top]
    assert out[2].tolist() == [0, 1, -2, 2, -3, top, bottom, 0, top]
    assert out[3].tolist() == [1, 2, -1, 3, -2, top, bottom, 0, top]
    assert out[4].view(np.uint32).tolist() == [0, 2, 0, 3, 0, 3000000000, 0, 0, 2**32 - 1]


def test_half_functions() -> None:
    random = np.random.default_rng(2)
    x, y = (random.uniform(-2, 2, 32).astype(np.float32) for _ in range(2))
    out = np.zeros((6, 32), np.float32)
    assert MATH.launch("half_functions", 32, out, x, y) is None

    def bf16(values: np.ndarray) -> np.ndarray:
        return bf16_to_float32(float32_to_bf16(values.astype(np.float32))).astype(np.float64)

    a, b = bf16(x), bf16(y)
    c, d = (values.astype(np.float16).astype(np.float64) for values in (x, y))
    # Products and sums of these are exact in float64: one rounding is left, as in the real instruction.
    np.testing.assert_array_equal(out[0], bf16(a * b + a))
    np.testing.assert_array_equal(out[1], (c * d + c).astype(np.float16))
    np.testing.assert_array_equal(out[2], bf16(a * b + b))
    np.testing.assert_array_equal(out[3], bf16(b * a + b))
    assert (np.abs(out[4] - np.exp(a)) <= 2.0**-8 * np.exp(a)).all()
    assert (np.abs(out[5] - np.abs(d) ** -0.5) <= 2.0**-10 * np.abs(d) ** -0.5).all()


def atomic_results(name: str, dtype: type) -> tuple[list[float], list[float]]:
    cells, old = np.full(10, 50, dtype), np.zeros(10, dtype)
    assert MATH.launch(name, 1, cells, old) is None
    return cells.tolist(), old.tolist()


def test_atomics() -> None:
    for name, dtype in (("atomics_int", np.int32), ("atomics_u64", np.uint64), ("atomics_float", np.float32)):
        cells, old = atomic_results(name, dtype)
        assert cells[:7] == [53, 47, 50, 3, 3, 3, 50]
        assert old[:7] == [50] * 7
    cells, _ = atomic_results("atomics_int", np.int32)
    assert cells[7:] == [50 & 6, 50 | 9, 50 ^ 255]


def test_atomics_that_wrap() -> None:
    cells, old = np.array([0, 1], np.uint32), np.zeros(6, np.uint32)
    assert MATH.launch("atomics_wrap", 1, cells, old) is None
    assert old.tolist() == [0, 1, 0, 1, 0, 5]
    assert cells.tolist() == [1, 4]


def test_atomic_add_of_a_bf16_pair() -> None:
    cell = np.zeros(2, np.uint16)
    assert MATH.launch("atomics_pair", 64, cell, 0) is None
    assert bf16_to_float32(cell).tolist() == [64.0, 128.0]
