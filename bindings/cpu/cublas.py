"""The CPU device's cuBLAS: the functions of `bindings/cublas_api.py` without a GPU.

Handles, pointers and enums are ints, alpha and beta Python floats, answers `(status, *values)`. Types, operations and
limits are cuBLAS's own for CUBLAS_COMPUTE_32F: inputs of one type, sums in float32, an output of that type or float32.
Reference: NVIDIA's cuBLAS manual, cublasGemmEx and cublasGemmStridedBatchedEx.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cuda.bindings.driver import CUresult

from bindings.cpu import context, gemm
from bindings.cpu.context import Failure, on_context_end, require_context
from bindings.cpu.gemm import ITEM_SIZE, Gemm, GemmCall
from bindings.cpu.memory import heap
from bindings.cpu.streams import find_stream, submit


class Status(IntEnum):
    """cublasStatus_t."""

    CUBLAS_STATUS_SUCCESS = 0
    CUBLAS_STATUS_NOT_INITIALIZED = 1
    CUBLAS_STATUS_ALLOC_FAILED = 3
    CUBLAS_STATUS_INVALID_VALUE = 7
    CUBLAS_STATUS_ARCH_MISMATCH = 8
    CUBLAS_STATUS_MAPPING_ERROR = 11
    CUBLAS_STATUS_EXECUTION_FAILED = 13
    CUBLAS_STATUS_INTERNAL_ERROR = 14
    CUBLAS_STATUS_NOT_SUPPORTED = 15
    CUBLAS_STATUS_LICENSE_ERROR = 16


SUCCESS = Status.CUBLAS_STATUS_SUCCESS
NOT_INITIALIZED = Status.CUBLAS_STATUS_NOT_INITIALIZED
INVALID_VALUE = Status.CUBLAS_STATUS_INVALID_VALUE
EXECUTION_FAILED = Status.CUBLAS_STATUS_EXECUTION_FAILED
NOT_SUPPORTED = Status.CUBLAS_STATUS_NOT_SUPPORTED

_TEXTS = {
    SUCCESS: "no error",
    NOT_INITIALIZED: "no context is current, or the handle was destroyed or never created",
    INVALID_VALUE: "an argument is out of its range",
    EXECUTION_FAILED: "the product could not be run",
    NOT_SUPPORTED: "this combination of types is not offered",
}

VERSION = 130000  # the cuBLAS whose manual this follows
INVARIANT_ROWS = 1  # a row's sums do not depend on how many rows there are (gemm.cpp), so any number will do
CUDA_R_32F = 0
COMPUTE_32F, COMPUTE_32F_PEDANTIC = 68, 69
OP_N, OP_T, OP_C = 0, 1, 2
MATH_MODES = (0, 1, 2, 3)  # CUBLAS_DEFAULT_MATH … CUBLAS_TF32_TENSOR_OP_MATH
MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
ALGORITHMS = (-1, *range(24), *range(99, 116))  # cublasGemmAlgo_t; all one here


@dataclass
class Handle:
    """What a handle remembers. Math mode and workspace change nothing here: sums are always float32, in one order."""

    stream: int = 0
    math_mode: int = 0
    workspace: int = 0


class _Refusal(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


# What a driver call would have answered where cuBLAS finds no context to work in.
_NO_CONTEXT = (
    CUresult.CUDA_ERROR_NOT_INITIALIZED,
    CUresult.CUDA_ERROR_INVALID_CONTEXT,
    CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED,
)

_handles: dict[int, Handle] = {}
_numbers = itertools.count(1)
on_context_end.append(_handles.clear)


def _entry_point(values: int = 0) -> Callable[..., Any]:
    """Make a function a cuBLAS call: needs a living context, answers `(status, *values)`, zeros beside a failure."""

    def decorate(function: Callable[..., Any]) -> Callable[..., tuple[int, ...]]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> tuple[int, ...]:
            failed = EXECUTION_FAILED
            with context.lock:
                try:
                    require_context()
                    answer = function(*arguments, **named)
                except _Refusal as refusal:
                    failed = refusal.status
                except Failure as failure:
                    failed = NOT_INITIALIZED if failure.status in _NO_CONTEXT else EXECUTION_FAILED
                else:
                    return (SUCCESS, answer) if values else (SUCCESS,)
            return (failed, *[0] * values)

        return call

    return decorate


def _find(handle: int) -> Handle:
    if handle not in _handles:
        raise _Refusal(NOT_INITIALIZED)
    return _handles[handle]


def _require(condition: bool, status: Status = INVALID_VALUE) -> None:
    if not condition:
        raise _Refusal(status)


@_entry_point(values=1)
def cublasCreate() -> int:
    """(status, handle). Raises CompileError if the host has no compiler for the products."""
    gemm.library()
    number = next(_numbers)
    _handles[number] = Handle()
    return number


@_entry_point()
def cublasDestroy(handle: int) -> None:
    """(status,)."""
    _find(handle)
    del _handles[handle]


@_entry_point()
def cublasSetStream(handle: int, stream: int) -> None:
    """(status,). Later products of this handle go to `stream`."""
    found = _find(handle)
    find_stream(stream)
    found.stream = stream


@_entry_point()
def cublasSetWorkspace(handle: int, workspace: int, nbytes: int) -> None:
    """(status,). Checked and kept, but not needed: products work in memory of their own."""
    found = _find(handle)
    _require(nbytes >= 0 and (nbytes == 0 or heap.holds(workspace, nbytes)))
    _require(workspace % 256 == 0)
    found.workspace = workspace


@_entry_point()
def cublasSetMathMode(handle: int, mode: int) -> None:
    """(status,). Every mode gives the same float32 sums."""
    found = _find(handle)
    _require(mode & ~MATH_DISALLOW_REDUCED_PRECISION_REDUCTION in MATH_MODES)
    found.math_mode = mode


@_entry_point(values=1)
def cublasGetVersion(handle: int) -> int:
    """(status, version)."""
    _find(handle)
    return VERSION


def _check_types(input_types: tuple[int, int], output_type: int, compute: int, algo: int) -> None:
    _require(algo in ALGORITHMS)
    a, b = input_types
    supported = compute in (COMPUTE_32F, COMPUTE_32F_PEDANTIC) and a == b and a in ITEM_SIZE
    _require(supported and output_type in (a, CUDA_R_32F), NOT_SUPPORTED)


def _check_sizes(call: GemmCall) -> None:
    _require(min(call.m, call.n, call.k, call.batch) >= 0)
    _require(call.lda >= max(1, call.k if call.transpose_a else call.m))
    _require(call.ldb >= max(1, call.n if call.transpose_b else call.k))
    _require(call.ldc >= max(1, call.m))
    _require(min(call.stride_a, call.stride_b, call.stride_c) >= 0)


@_entry_point()
def cublasGemmStridedBatchedEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: float, A: int, Atype: int, lda: int, strideA: int, B: int, Btype: int, ldb: int, strideB: int,
    beta: float, C: int, Ctype: int, ldc: int, strideC: int, batchCount: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """(status,) of `batchCount` products as cublasGemmEx; matrix i begins at i * stride elements."""
    found = _find(handle)
    _require(all(op in (OP_N, OP_T, OP_C) for op in (transa, transb)))
    _check_types((Atype, Btype), Ctype, computeType, algo)
    call = GemmCall(
        Atype, Ctype, transa != OP_N, transb != OP_N, m, n, k, lda, ldb, ldc, strideA, strideB, strideC, batchCount,
        alpha, beta, A, B, C,
    )  # fmt: skip
    _check_sizes(call)
    if alpha == 0:
        call.k = 0  # as BLAS has it, A and B are then not read
    if m and n and batchCount:
        submit(found.stream, Gemm(call))


def cublasGemmEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: float, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
    beta: float, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> tuple[int]:  # fmt: skip
    """(status,) of C[m,n] = alpha * op(A)[m,k] @ op(B)[k,n] + beta * C, all column-major."""
    return cublasGemmStridedBatchedEx(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0,
        beta, C, Ctype, ldc, 0, 1, computeType, algo,
    )  # fmt: skip


def cublasGetStatusName(status: int) -> str:
    """`CUBLAS_STATUS_…` of a status."""
    return Status(status).name if status in Status._value2member_map_ else "unknown cuBLAS status"


def cublasGetStatusString(status: int) -> str:
    """A status in this library's words; its name if it never answers that one."""
    known = status in Status._value2member_map_ and Status(status) in _TEXTS
    return _TEXTS[Status(status)] if known else cublasGetStatusName(status)
