"""The CPU device's matrix product against float64, and cuBLAS's rules around it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bindings.cpu import cublas, driver
from bindings.dtypes import BF16, F16, F32, DType, decode, encode
from tests.cpu_device.driver.support import download, ok, status, upload
from tools.microtest.comparator import assert_close, assert_same_bits
from tools.microtest.rounding import F32_EPS, sum_eps

CUDA_TYPE = {F32: 0, F16: 2, BF16: 14}
N, T, C = 0, 1, 2

# Relative error of one rounding to the output's type, and the most that rounding next to zero may be off.
ROUNDING = {F32: (2.0**-24, 2.0**-150), F16: (2.0**-11, 2.0**-25), BF16: (2.0**-8, 2.0**-134)}

SIZES = (1, 3, 17, 63, 64, 65, 129, 576, 1536)
SHAPES = [
    *((size, 5, 19) for size in SIZES),
    *((7, size, 33) for size in SIZES),
    *((13, 3, size) for size in SIZES),
    *((size, size, size) for size in SIZES[:7]),
    *((129, columns, 129) for columns in range(1, 10)),
    (576, 1, 576),
    (65, 600, 576),  # more columns than one block of B holds
    (5, 70, 8192),
]


@pytest.fixture
def handle() -> int:
    return int(ok(cublas.cublasCreate()))


@dataclass(frozen=True)
class Operand:
    """A column-major matrix in device memory, `transposed` if the product is to use its transpose."""

    values: NDArray[np.float64]  # op(X), as the product sees it
    address: int
    leading: int
    dtype: DType
    transposed: bool


def operand(values: NDArray, dtype: DType, transposed: bool, padding: int = 0) -> Operand:
    """op(X) = `values`, rounded to `dtype` first; `padding` elements of NaN between the columns."""
    carrier = encode(values, dtype)
    stored = carrier.T if transposed else carrier
    columns = np.full((stored.shape[1], stored.shape[0] + padding), encode(np.array(np.nan), dtype))
    columns[:, : stored.shape[0]] = stored.T
    rounded = decode(carrier, dtype).astype(np.float64)
    return Operand(rounded, upload(columns), columns.shape[1], dtype, transposed)


def multiply(handle: int, a: Operand, b: Operand, out: Operand, alpha: float = 1.0, beta: float = 0.0) -> NDArray:
    """out = alpha * a @ b + beta * out on the device; the carrier array of the result."""
    (m, k), n = a.values.shape, b.values.shape[1]
    ok(cublas.cublasGemmEx(
        handle, T if a.transposed else N, T if b.transposed else N, m, n, k,
        alpha, a.address, CUDA_TYPE[a.dtype], a.leading, b.address, CUDA_TYPE[b.dtype], b.leading,
        beta, out.address, CUDA_TYPE[out.dtype], out.leading, 68, -1,
    ))  # fmt: skip
    return download(out.address, (n, out.leading), out.dtype.carrier)[:, :m].T


def check(handle: int, shape: tuple[int, int, int], a_transposed: bool, b_transposed: bool, dtype: DType,
          out_dtype: DType, alpha: float = 1.0, beta: float = 0.0, padding: int = 0) -> None:  # fmt: skip
    """One product of random operands against float64."""
    m, n, k = shape
    random = np.random.default_rng(m * 10007 + n * 101 + k)
    before = driver.live_allocations()
    a = operand(random.standard_normal((m, k)), dtype, a_transposed, padding)
    b = operand(random.standard_normal((k, n)), dtype, b_transposed, padding)
    old = np.full((m, n), np.nan) if beta == 0 else random.standard_normal((m, n))
    out = operand(old, out_dtype, False, padding)
    got = decode(multiply(handle, a, b, out, alpha, beta), out_dtype)
    sums, magnitude = a.values @ b.values, np.abs(a.values) @ np.abs(b.values)
    added = beta * out.values if beta else np.zeros_like(sums)
    expected = alpha * sums + added
    # k products summed in float32 in some order; a product by alpha, one by beta and an addition; the last rounding.
    float32_error = abs(alpha) * sum_eps(k) * magnitude + 3 * F32_EPS * (np.abs(alpha * sums) + np.abs(added))
    relative, absolute = ROUNDING[out_dtype]
    assert_close(got, expected, float32_error + relative * (np.abs(expected) + float32_error) + absolute, str(shape))
    for address, _ in set(driver.live_allocations()) - set(before):
        ok(driver.cuMemFree(address))


@pytest.mark.parametrize("transposed", [(True, False), (False, False), (True, True), (False, True)], ids=str)
@pytest.mark.parametrize("types", [(BF16, BF16), (BF16, F32), (F16, F16), (F16, F32), (F32, F32)], ids=str)
def test_products_are_those_of_float64(handle: int, types: tuple[DType, DType], transposed: tuple[bool, bool]) -> None:
    for shape in SHAPES:
        check(handle, shape, *transposed, *types)


@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 80)] * 3),
    transposed=st.tuples(st.booleans(), st.booleans()),
    types=st.sampled_from([(BF16, BF16), (BF16, F32), (F16, F32), (F32, F32)]),
    scale=st.sampled_from([(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (0.125, 0.0)]),
    padding=st.integers(0, 5),
)
def test_any_product(shape: Any, transposed: Any, types: Any, scale: Any, padding: int) -> None:
    check(int(ok(cublas.cublasCreate())), shape, *transposed, *types, *scale, padding=padding)


def test_padding_between_columns_is_left_alone(handle: int) -> None:
    a, b = operand(np.ones((5, 7)), BF16, True, 2), operand(np.ones((7, 3)), BF16, False, 4)
    out = operand(np.zeros((5, 3)), F32, False, padding=3)
    multiply(handle, a, b, out)
    stored = download(out.address, (3, 8), np.float32)
    assert (stored[:, :5] == 7).all() and np.isnan(stored[:, 5:]).all()


def test_beta_0_does_not_read_the_output_and_alpha_0_not_the_inputs(handle: int) -> None:
    nan = operand(np.full((9, 9), np.nan), BF16, True)
    out = operand(np.full((9, 9), np.nan), F32, False)
    assert (multiply(handle, nan, nan, out, alpha=0.0, beta=0.0) == 0).all()
    assert (multiply(handle, operand(np.eye(9), BF16, True), operand(np.eye(9), BF16, False), out) == np.eye(9)).all()
    assert (multiply(handle, nan, nan, out, alpha=0.0, beta=2.0) == 2 * np.eye(9)).all()
    assert np.isnan(multiply(handle, nan, nan, out, alpha=1.0, beta=0.0)).all()


def test_a_nan_or_an_infinity_stays_in_its_row_and_column(handle: int) -> None:
    values = np.ones((20, 50))
    values[3, 49], values[7, 0] = np.nan, np.inf
    for columns in (1, 9):
        out = operand(np.zeros((20, columns)), BF16, False)
        got = decode(
            multiply(handle, operand(values, BF16, True), operand(np.ones((50, columns)), BF16, False), out), BF16
        )
        assert np.isnan(got[3]).all() and (got[7] == np.inf).all()
        assert (np.delete(got, (3, 7), axis=0) == 50).all()


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_outputs_are_rounded_once_to_nearest_even(handle: int, dtype: DType) -> None:
    """Every kind of number, ties and subnormals too: the product of a float32 column by 1."""
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32)
    ties = random.integers(0, 2**16, 1000).astype(np.uint32) << 16 | 0x8000
    halves = np.float32(2.0**-25) * np.arange(1, 4000, 37, dtype=np.float32)
    edges = np.float32([0, -0.0, 65519.9, 65520, np.inf, 2.0**-14, 2.0**-24, 2.0**-25, 2.0**-133])
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), halves, edges])
    # A bf16 or f16 input can't hold these: alpha scales 1 by each of them instead.
    one = operand(np.ones((1, 1)), dtype, True)
    out = upload(np.zeros(len(values), dtype.carrier))
    for i, value in enumerate(values):
        ok(cublas.cublasGemmEx(
            handle, T, N, 1, 1, 1, float(value), one.address, CUDA_TYPE[dtype], 1, one.address, CUDA_TYPE[dtype], 1,
            0.0, out + 2 * i, CUDA_TYPE[dtype], 1, 68, -1,
        ))  # fmt: skip
    got = decode(download(out, len(values), dtype.carrier), dtype)
    with np.errstate(over="ignore"):
        expected = decode(encode(values, dtype), dtype)
    is_nan = np.isnan(expected)
    assert np.isnan(got[is_nan]).all()
    assert_same_bits(got[~is_nan], expected[~is_nan])


def test_f16_inputs_of_every_bit_pattern_are_widened_exactly(handle: int) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    one = operand(np.ones((1, 1)), F16, False)
    source, out = upload(bits), upload(np.zeros(2**16, np.float32))
    ok(cublas.cublasGemmEx(
        handle, T, N, 2**16, 1, 1, 1.0, source, 2, 1, one.address, 2, 1, 0.0, out, 0, 2**16, 68, -1
    ))  # fmt: skip
    expected = bits.view(np.float16).astype(np.float32)
    got = download(out, 2**16, np.float32)
    assert np.array_equal(got, expected, equal_nan=True)


def decode_and_prefill(handle: int, dtype: DType) -> dict[int, NDArray]:
    """The first column of a product, by the number of columns computed with it."""
    random = np.random.default_rng(3)
    weights = operand(random.standard_normal((131, 577)), dtype, True)
    inputs = random.standard_normal((577, 300))
    first = {}
    for columns in (1, 2, 3, 4, 5, 8, 9, 64, 300):
        out = operand(np.zeros((131, columns)), F32, False)
        first[columns] = multiply(handle, weights, operand(inputs[:, :columns], dtype, False), out)[:, 0]
    return first


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
def test_a_column_does_not_depend_on_its_neighbours(handle: int, dtype: DType) -> None:
    """A request gets the same logits alone as in a batch, and in decode as in prefill."""
    first = decode_and_prefill(handle, dtype)
    for columns, values in first.items():
        assert_same_bits(values, first[1], f"{columns} columns")


def test_a_column_does_not_depend_on_the_path(handle: int) -> None:
    random = np.random.default_rng(4)
    weights, inputs = random.standard_normal((131, 577)), random.standard_normal((577, 1))
    out = operand(np.zeros((131, 1)), F32, False)
    got = [
        multiply(handle, operand(weights, BF16, a), operand(inputs, BF16, b), out).copy()
        for a in (True, False)
        for b in (True, False)
    ]
    for other in got[1:]:
        assert_same_bits(other, got[0])


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    code = """
import hashlib
from bindings.cpu import cublas, driver
from tests.cpu_device.driver.support import ok
from tests.cpu_device.driver.test_gemm import BF16, decode_and_prefill
ok(driver.cuInit(0)); ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
for values in decode_and_prefill(ok(cublas.cublasCreate()), BF16).values():
    print(hashlib.sha256(values.tobytes()).hexdigest())
"""
    outputs = set()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "CUTAWAY_CPU_THREADS": threads}
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        outputs.add(ended.stdout)
    assert len(outputs) == 1 and len(outputs.pop().split()) == 9


@pytest.mark.parametrize("transposed", [(True, False), (False, True)], ids=str)
def test_a_strided_batch_is_one_product_a_matrix(handle: int, transposed: tuple[bool, bool]) -> None:
    batch, m, n, k = 5, 9, 11, 20
    random = np.random.default_rng(2)
    a = encode(random.standard_normal((batch, m, k)), BF16)
    b = encode(random.standard_normal((batch, k, n)), BF16)
    stored_a = np.full((batch, m * k + 3), 0x7FC0, np.uint16)  # NaN between the matrices
    stored_b = np.full((batch, n * k + 7), 0x7FC0, np.uint16)
    for i in range(batch):
        stored_a[i, : m * k] = (a[i] if transposed[0] else a[i].T).ravel()
        stored_b[i, : n * k] = (b[i] if transposed[1] else b[i].T).ravel()
    out = upload(np.full((batch, n, m), np.nan, np.float32))
    ok(cublas.cublasGemmStridedBatchedEx(
        handle, T if transposed[0] else N, T if transposed[1] else N, m, n, k,
        1.0, upload(stored_a), 14, k if transposed[0] else m, m * k + 3,
        upload(stored_b), 14, n if transposed[1] else k, n * k + 7, 0.0, out, 0, m, m * n, batch, 68, -1,
    ))  # fmt: skip
    left, right = (decode(x, BF16).astype(np.float64) for x in (a, b))
    bound = (sum_eps(k) + F32_EPS) * (np.abs(left) @ np.abs(right))
    assert_close(download(out, (batch, n, m), np.float32).transpose(0, 2, 1), left @ right, bound)


def test_a_stride_of_0_repeats_a_matrix(handle: int) -> None:
    a, b = upload(np.float32([[1, 2]])), upload(np.float32([[3], [5]]))
    out = upload(np.zeros(4, np.float32))
    ok(cublas.cublasGemmStridedBatchedEx(
        handle, N, N, 2, 1, 1, 1.0, a, 0, 2, 0, b, 0, 1, 1, 0.0, out, 0, 2, 2, 2, 68, -1
    ))  # fmt: skip
    assert download(out, 4, np.float32).tolist() == [3, 6, 5, 10]


def call(good_handle: int, **changes: Any) -> int:
    """The status of a good call with some arguments changed."""
    a, b, c = (upload(np.zeros(64, np.uint16)) for _ in range(3))
    arguments = {
        "handle": good_handle, "transa": T, "transb": N, "m": 4, "n": 5, "k": 6, "alpha": 1.0,
        "A": a, "Atype": 14, "lda": 6, "B": b, "Btype": 14, "ldb": 6, "beta": 0.0,
        "C": c, "Ctype": 14, "ldc": 4, "computeType": 68, "algo": -1,
    }  # fmt: skip
    answer = cublas.cublasGemmEx(*{**arguments, **changes}.values())
    return int(answer[0])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "SUCCESS"),
        ({"transa": C, "algo": 99, "computeType": 69}, "SUCCESS"),
        ({"m": 0}, "SUCCESS"),
        ({"k": 0}, "SUCCESS"),
        ({"transa": 3}, "INVALID_VALUE"),
        ({"m": -1}, "INVALID_VALUE"),
        ({"lda": 5}, "INVALID_VALUE"),
        ({"transa": N, "lda": 3}, "INVALID_VALUE"),
        ({"ldb": 5}, "INVALID_VALUE"),
        ({"transb": T, "ldb": 4}, "INVALID_VALUE"),
        ({"ldc": 3}, "INVALID_VALUE"),
        ({"algo": 50}, "INVALID_VALUE"),
        ({"computeType": 64}, "NOT_SUPPORTED"),
        ({"Btype": 2}, "NOT_SUPPORTED"),
        ({"Ctype": 2}, "NOT_SUPPORTED"),
        ({"Atype": 3, "Btype": 3}, "NOT_SUPPORTED"),
        ({"handle": 12345}, "NOT_INITIALIZED"),
    ],
    ids=str,
)
def test_statuses(handle: int, changes: dict[str, int], expected: str) -> None:
    assert cublas.cublasGetStatusName(call(handle, **changes)) == f"CUBLAS_STATUS_{expected}"
    assert cublas.cublasGetStatusString(call(handle, **changes))


def test_k_0_clears_the_output(handle: int) -> None:
    out = operand(np.full((3, 2), np.nan), F32, False)
    empty = [operand(np.zeros(shape), BF16, False) for shape in ((3, 1), (1, 2))]
    ok(cublas.cublasGemmEx(
        handle, N, N, 3, 2, 0, 1.0, empty[0].address, 14, 3, empty[1].address, 14, 1, 0.0, out.address, 0, 3, 68, -1
    ))  # fmt: skip
    assert (download(out.address, 6, np.float32) == 0).all()


@pytest.mark.parametrize("which", ["A", "B", "C"])
def test_an_operand_outside_its_allocation_faults(handle: int, which: str) -> None:
    short = upload(np.zeros(23 if which == "A" else 19, np.uint16))
    assert cublas.cublasGetStatusName(call(handle, **{which: short})) == "CUBLAS_STATUS_EXECUTION_FAILED"
    report = driver.last_report()
    assert report is not None and f"operand {which}" in report.text and "offset 0 of an allocation" in report.text
    assert status(driver.cuMemAlloc(4)) == "ERROR_ILLEGAL_ADDRESS"


def test_handles_and_their_settings(handle: int) -> None:
    name = cublas.cublasGetStatusName
    assert ok(cublas.cublasGetVersion(handle)) // 10000 == 13
    stream = int(ok(driver.cuStreamCreate(0)))
    workspace = int(ok(driver.cuMemAlloc(1024)))
    ok(cublas.cublasSetStream(handle, stream))
    ok(cublas.cublasSetWorkspace(handle, workspace, 1024))
    ok(cublas.cublasSetWorkspace(handle, 0, 0))
    ok(cublas.cublasSetMathMode(handle, 16))
    assert name(cublas.cublasSetWorkspace(handle, workspace, 1025)[0]) == "CUBLAS_STATUS_INVALID_VALUE"
    assert name(cublas.cublasSetWorkspace(handle, workspace + 16, 16)[0]) == "CUBLAS_STATUS_INVALID_VALUE"
    assert name(cublas.cublasSetMathMode(handle, 5)[0]) == "CUBLAS_STATUS_INVALID_VALUE"
    ok(driver.cuStreamDestroy(stream))
    assert name(cublas.cublasSetStream(handle, stream)[0]) == "CUBLAS_STATUS_EXECUTION_FAILED"
    assert name(call(handle)) == "CUBLAS_STATUS_EXECUTION_FAILED"
    ok(cublas.cublasDestroy(handle))
    assert name(cublas.cublasDestroy(handle)[0]) == "CUBLAS_STATUS_NOT_INITIALIZED"
    assert cublas.cublasGetVersion(handle) == (1, 0)


def test_a_handle_needs_a_context() -> None:
    ok(driver.cuCtxSetCurrent(0))
    assert cublas.cublasCreate() == (1, 0)


def test_unknown_statuses_have_texts() -> None:
    assert cublas.cublasGetStatusName(99) == cublas.cublasGetStatusString(99) == "unknown cuBLAS status"
    assert cublas.cublasGetStatusString(16) == "CUBLAS_STATUS_LICENSE_ERROR"
