"""What GPUs before sm_80 run in place of mma and cp.async, held to the twins of those instructions."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.cpu import executor
from bindings.device import Device
from bindings.dtypes import bf16_to_float32, float32_to_bf16
from engine import ops
from tests.cpu_device.simt_support import ALL_ORDERS, KERNELS, aligned_zeros, kernels_of
from tests.cpu_device.test_simt_instructions import fragments_of, matrix_of
from tools.microtest.harness import Case, cases_of, check, run

OLDER = kernels_of("before_sm80.cu")


def both(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A * B + C of the twin and of the emulation, [16, 8] each."""
    twin, emulated = np.zeros((32, 4), np.float32), np.zeros((32, 4), np.float32)
    assert OLDER.launch("both_mma", 32, twin, emulated, *fragments_of(a, b, c)) is None
    return matrix_of(twin), matrix_of(emulated)


def operands(seed: int, exponents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random A, B (bf16 bits) and C, their sizes spread over 2^-exponents .. 2^exponents."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        scale = np.exp2(random.integers(-exponents, exponents + 1, shape))
        return (random.standard_normal(shape) * scale).astype(np.float32)

    return float32_to_bf16(draw(16, 16)), float32_to_bf16(draw(16, 8)), draw(16, 8)


@pytest.mark.parametrize("exponents", [0, 8, 30])
@pytest.mark.parametrize("seed", range(8))
def test_mma_by_shuffles_is_mma(seed: int, exponents: int) -> None:
    a, b, c = operands(seed, exponents)
    twin, emulated = both(a, b, c)
    # Both add exact products in order of k and round each of the 16 sums once: no bit may differ.
    np.testing.assert_array_equal(emulated, twin)
    a64, b64 = bf16_to_float32(a).astype(np.float64), bf16_to_float32(b).astype(np.float64)
    bound = 16 * 2.0**-24 * (np.abs(a64) @ np.abs(b64) + np.abs(c))
    assert (np.abs(emulated - (a64 @ b64 + c)) <= bound).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 2.0**127, 2.0**-126])
@pytest.mark.parametrize("side", ["a", "b", "c"])
def test_mma_by_shuffles_at_the_ends_of_the_range(value: float, side: str) -> None:
    """Overflow, infinities and NaN go where mma takes them; below the normal range a rounding of the twin's product,
    which the emulation's FMA does not make, is at most half of the smallest float32 for each of the 16."""
    a, b, c = operands(0, 2)
    place = {"a": a, "b": b, "c": c}[side]
    place[3, 5] = value if side == "c" else float32_to_bf16(np.array([value], np.float32))[0]
    twin, emulated = both(a, b, c)
    np.testing.assert_allclose(emulated, twin, rtol=0, atol=16 * 2.0**-150, equal_nan=True)


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_copies_by_registers_deliver(order: str, seed: int) -> None:
    data = aligned_zeros(128, np.float32)
    data[:] = np.arange(1, 129)
    out = np.zeros((32, 2, 4), np.float32)
    executor.set_schedule(order, seed)
    assert OLDER.launch("copy_by_registers", 32, out, data, 10) is None
    np.testing.assert_array_equal(out[::-1, 0].reshape(-1), data)
    np.testing.assert_array_equal(out[::-1, 1].reshape(-1), np.where(np.arange(128) < 40, data, 0))


OLDER_PREFILL = ops.PREFILL_ATTENTION.variant(
    name="prefill_attention_before_sm80", source=str(KERNELS / "prefill_before_sm80.cu")
)
CASES = [
    case
    for case in cases_of(OLDER_PREFILL)
    if case.name.startswith(("mixed-D64", "mixed-D128-NH2", "large", "one-hot"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prefill_attention_is_right_without_mma(device: Device, case: Case) -> None:
    problem = case.problem()
    check(OLDER_PREFILL, problem, run(OLDER_PREFILL, problem, device, guarded=True))
