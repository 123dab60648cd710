"""cuBLAS through ctypes: the C functions that the engine uses, one prototype each, as `(status, value…)` answers.

Handles and pointers are ints, enums are ints, alpha and beta Python floats. The CPU device offers a module with the
same functions (`bindings/cpu/cublas.py`). Reference: NVIDIA's cuBLAS manual, "Using the cuBLAS API".
"""

import ctypes
from ctypes import c_char_p, c_float, c_int, c_longlong, c_size_t, c_void_p
from functools import lru_cache
from typing import Any

from bindings.toolkit import load_library

# cuBLAS chooses a kernel, and with it the order of its sums, by the shapes of a product. So products whose rows must
# not depend on how many they are all get this number of rows (bindings/cublas.py). Larger blocks read the weights less
# often; smaller ones waste less on a step of few tokens. 256 is about what a GPU multiplies while it reads a weight: on
# an H100 it costs a decode step 7 % over 128, and makes a prefill 1.6 times as fast (docs/deterministic.md). A multiple
# of 128, so that every block of rows begins at a multiple of 256 bytes, as its buffer does: cuBLAS looks at alignment
# too.
INVARIANT_ROWS = 256

_POINTER_TO_FLOAT = ctypes.POINTER(c_float)

# One product: op(A), op(B), m, n, k, alpha, then (pointer, type, leading dimension[, stride]) of A and B, beta, C.
_GEMM_EX = [c_void_p, c_int, c_int, c_int, c_int, c_int, _POINTER_TO_FLOAT]
_GEMM_EX += [c_void_p, c_int, c_int] * 2 + [_POINTER_TO_FLOAT] + [c_void_p, c_int, c_int, c_int, c_int]
_STRIDED = [c_void_p, c_int, c_int, c_int, c_int, c_int, _POINTER_TO_FLOAT]
_STRIDED += [c_void_p, c_int, c_int, c_longlong] * 2 + [_POINTER_TO_FLOAT]
_STRIDED += [c_void_p, c_int, c_int, c_longlong, c_int, c_int, c_int]

_PROTOTYPES: dict[str, list[Any]] = {
    "cublasCreate_v2": [ctypes.POINTER(c_void_p)],
    "cublasDestroy_v2": [c_void_p],
    "cublasSetStream_v2": [c_void_p, c_void_p],
    "cublasSetWorkspace_v2": [c_void_p, c_void_p, c_size_t],
    "cublasSetMathMode": [c_void_p, c_int],
    "cublasGetVersion_v2": [c_void_p, ctypes.POINTER(c_int)],
    "cublasGemmEx": _GEMM_EX,
    "cublasGemmStridedBatchedEx": _STRIDED,
    "cublasGetStatusName": [c_int],
    "cublasGetStatusString": [c_int],
}


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(load_library("cublas")))
    for name, argtypes in _PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes = argtypes
        function.restype = c_char_p if name.startswith("cublasGetStatus") else c_int
    return library


def cublasCreate() -> tuple[int, int]:
    """A new handle on the current context: (status, handle)."""
    handle = c_void_p()
    status = _library().cublasCreate_v2(ctypes.byref(handle))
    return status, handle.value or 0


def cublasDestroy(handle: int) -> tuple[int]:
    """Release a handle."""
    return (_library().cublasDestroy_v2(handle),)


def cublasSetStream(handle: int, stream: int) -> tuple[int]:
    """Later calls with this handle go to `stream`."""
    return (_library().cublasSetStream_v2(handle, stream),)


def cublasSetWorkspace(handle: int, workspace: int, nbytes: int) -> tuple[int]:
    """Give cuBLAS its scratch memory, so that it never allocates (required inside a captured graph)."""
    return (_library().cublasSetWorkspace_v2(handle, workspace, nbytes),)


def cublasSetMathMode(handle: int, mode: int) -> tuple[int]:
    """Choose the arithmetic that cuBLAS may use (cublasMath_t)."""
    return (_library().cublasSetMathMode(handle, mode),)


def cublasGetVersion(handle: int) -> tuple[int, int]:
    """(status, version), e.g. 130100 for 13.1.0."""
    version = c_int()
    return _library().cublasGetVersion_v2(handle, ctypes.byref(version)), version.value


def cublasGemmEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: float, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
    beta: float, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> tuple[int]:  # fmt: skip
    """C[m,n] = alpha * op(A)[m,k] @ op(B)[k,n] + beta * C, all column-major."""
    call = _library().cublasGemmEx
    a, b = c_float(alpha), c_float(beta)
    return (
        call(
            handle,
            transa,
            transb,
            m,
            n,
            k,
            a,
            A,
            Atype,
            lda,
            B,
            Btype,
            ldb,
            b,
            C,
            Ctype,
            ldc,
            computeType,
            algo,
        ),
    )


def cublasGemmStridedBatchedEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: float, A: int, Atype: int, lda: int, strideA: int, B: int, Btype: int, ldb: int, strideB: int,
    beta: float, C: int, Ctype: int, ldc: int, strideC: int, batchCount: int, computeType: int, algo: int,
) -> tuple[int]:  # fmt: skip
    """`batchCount` products as cublasGemmEx; matrix i begins at i * stride elements."""
    call = _library().cublasGemmStridedBatchedEx
    a, b = c_float(alpha), c_float(beta)
    left = (handle, transa, transb, m, n, k, a, A, Atype, lda, strideA, B, Btype, ldb, strideB)
    return (call(*left, b, C, Ctype, ldc, strideC, batchCount, computeType, algo),)


def cublasGetStatusName(status: int) -> str:
    """`CUBLAS_STATUS_…` of a status."""
    return str(_library().cublasGetStatusName(status).decode())


def cublasGetStatusString(status: int) -> str:
    """cuBLAS's own explanation of a status."""
    return str(_library().cublasGetStatusString(status).decode())
