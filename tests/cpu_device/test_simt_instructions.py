"""The CPU twins of ptx.cuh against plain NumPy, written from the fragment layouts of the PTX manual."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from bindings.cpu import executor
from bindings.dtypes import bf16_to_float32, float32_to_bf16
from tests.cpu_device.simt_support import ALL_ORDERS, aligned_zeros, kernels_of

PTX = kernels_of("simt_instructions.cu")


def pairs(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low.astype(np.uint32) | high.astype(np.uint32) << 16


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(count: int, transposed: bool) -> None:
    matrices = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8) * 7
    out = np.full((32, 4), 0xDEAD, np.uint32)
    assert PTX.launch(f"ldmatrix_{count}" + "_trans" * transposed, 32, out, matrices) is None
    for lane in range(32):
        for j in range(count):
            matrix = matrices[j].T if transposed else matrices[j]
            row, column = lane // 4, lane % 4 * 2
            assert out[lane, j] == pairs(matrix[row, column], matrix[row, column + 1])
    assert (out[:, count:] == 0xDEAD).all()


def fragments_of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each lane holds of A [16, 16] and B [16, 8] (bf16 bits) and C [16, 8] (float32) in mma.m16n8k16.

    PTX ISA, "Matrix Fragments for mma.m16n8k16": groupID = lane / 4, threadID_in_group = lane % 4.
    a_i: row = groupID for i in 0, 1, 4, 5, else groupID + 8; column = threadID * 2 + (i & 1), + 8 for i >= 4.
    b_i: row = threadID * 2 + (i & 1), + 8 for i >= 2; column = groupID.
    c_i: row = groupID for i < 2, else groupID + 8; column = threadID * 2 + (i & 1).
    """
    a_words, b_words = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint16)
    c_words = np.zeros((32, 4), np.float32)
    for lane in range(32):
        group, thread = divmod(lane, 4)
        for i in range(8):
            a_words[lane, i] = a[group + (0 if i in (0, 1, 4, 5) else 8), thread * 2 + (i & 1) + (8 if i >= 4 else 0)]
        for i in range(4):
            b_words[lane, i] = b[thread * 2 + (i & 1) + (8 if i >= 2 else 0), group]
            c_words[lane, i] = c[group + (0 if i < 2 else 8), thread * 2 + (i & 1)]
    return a_words, b_words, c_words


def matrix_of(fragments: np.ndarray) -> np.ndarray:
    """The [16, 8] matrix whose fragments, in the layout of C, are [32, 4]."""
    matrix = np.zeros((16, 8), fragments.dtype)
    for lane in range(32):
        for i in range(4):
            matrix[lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)] = fragments[lane, i]
    return matrix


def random_operands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    a = float32_to_bf16(random.standard_normal((16, 16)).astype(np.float32))
    b = float32_to_bf16(random.standard_normal((16, 8)).astype(np.float32))
    return a, b, random.standard_normal((16, 8)).astype(np.float32)


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_mma(order: str, seed: int) -> None:
    a, b, c = random_operands()
    out = np.zeros((32, 4), np.float32)
    executor.set_schedule(order, seed)
    assert PTX.launch("mma", 32, out, *fragments_of(a, b, c), 1) is None
    a64, b64 = bf16_to_float32(a).astype(np.float64), bf16_to_float32(b).astype(np.float64)
    # Products are exact; 16 additions in a row, each off by at most 2^-24 of the largest partial sum.
    bound = 16 * 2.0**-24 * (np.abs(a64) @ np.abs(b64) + np.abs(c))
    assert (np.abs(matrix_of(out) - (a64 @ b64 + c)) <= bound).all()


def test_mma_adds_up_in_place_and_in_every_warp() -> None:
    a, b, _ = random_operands()
    a, b = a & 0xFF80, b & 0xFF80  # powers of two and their negatives: sums of a few are exact
    out = np.zeros((4, 32, 4), np.float32)
    assert PTX.launch("mma", 128, out, *fragments_of(a, b, np.zeros((16, 8), np.float32)), 3) is None
    expected = 3 * (bf16_to_float32(a).astype(np.float64) @ bf16_to_float32(b).astype(np.float64))
    assert all((np.abs(matrix_of(warp) - expected) <= 1e-4).all() for warp in out)


def test_mma_spreads_nan_as_a_product_does() -> None:
    a, b, c = random_operands()
    a[5, 3] = 0x7FC0
    out = np.zeros((32, 4), np.float32)
    assert PTX.launch("mma", 32, out, *fragments_of(a, b, c), 1) is None
    np.testing.assert_array_equal(np.isnan(matrix_of(out)), np.arange(16)[:, None].repeat(8, 1) == 5)


def test_mma_needs_the_whole_warp() -> None:
    report = PTX.launch("mma_by_half_a_warp", 32, np.zeros(32, np.float32))
    assert report is not None
    assert report.kind == "incomplete warp" and "0x0000ffff" in report.text


def test_ldmatrix_needs_aligned_rows() -> None:
    report = PTX.launch("ldmatrix_misaligned", 32, np.zeros(32, np.uint32))
    assert report is not None
    assert (report.kind, report.thread) == ("misaligned address", (0, 0, 0))


def copy_async(wait: int, valid_threads: int = 32) -> tuple[np.ndarray, np.ndarray]:
    data = aligned_zeros(128, np.float32)
    data[:] = np.arange(1, 129)
    out = np.zeros((2, 32, 4), np.float32)
    assert PTX.launch("copy_async", 32, out, data, wait, valid_threads) is None
    return out[0, ::-1].reshape(-1), out[1, ::-1].reshape(-1)


def test_cp_async_delivers_what_was_waited_for() -> None:
    first, second = copy_async(wait=0)
    np.testing.assert_array_equal(first, np.arange(1, 129))
    np.testing.assert_array_equal(second, np.arange(1, 129))


def test_cp_async_shows_a_missing_wait_as_nan() -> None:
    first, second = copy_async(wait=1)
    np.testing.assert_array_equal(first, np.arange(1, 129))
    assert np.isnan(second).all()
    assert np.isnan(np.concatenate(copy_async(wait=2))).all()


def test_cp_async_fills_with_zeros() -> None:
    _, second = copy_async(wait=0, valid_threads=10)
    np.testing.assert_array_equal(second, np.where(np.arange(128) < 40, np.arange(1, 129), 0))


def test_cp_async_reports_the_line_that_began_the_copy() -> None:
    report = PTX.launch("copy_async_from", 1, np.zeros(1, np.float32), ctypes.c_void_p(4096))
    assert report is not None
    assert (report.kind, report.address) == ("illegal address", 4096)
    assert report.location is not None and "/simt_instructions.cu:" in report.location
    report = PTX.launch("copy_async_from", 1, np.zeros(1, np.float32), ctypes.c_void_p(4100))
    assert report is not None and report.kind == "misaligned address"


def test_griddepcontrol_and_shared_addresses_exist() -> None:
    out = np.zeros(1, np.int32)
    assert PTX.launch("dependency", 1, out) is None
    assert out[0] == 1
