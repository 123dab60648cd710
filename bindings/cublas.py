"""Matrix products through cuBLAS, in row-major terms.

**The transpose trick.** cuBLAS is column-major: it reads memory that we wrote row by row as the transpose. A row-major
`X[r, c]` is, to cuBLAS, the column-major `X^T[c, r]` with leading dimension c. So instead of moving anything, ask it
for the transpose of what we want:

    row-major     out[M, N] = a[M, K] @ b[K, N]
    transposed    out^T[N, M] = b^T[N, K] @ a^T[K, M]
    what cuBLAS already sees: out -> out^T (ldc = N), b -> b^T (lda = N), a -> a^T (ldb = K)

Hence the call `cublasGemmEx(op_N, op_N, m=N, n=M, k=K, A=b, lda=N, B=a, ldb=K, C=out, ldc=N)`: the operands swapped,
nothing transposed. A linear layer's weight is stored as w[N, K] and used as `out = x @ w^T`. cuBLAS sees w as w^T[K, N]
with leading dimension K, needs b^T = w[N, K], and so transposes it back: `op_T, lda=K`. This is the fast case for
tensor cores too: both operands run along K in memory.
"""

from __future__ import annotations

from enum import IntEnum
from math import prod
from typing import Any

from bindings import backend
from bindings.calls import cublas
from bindings.device import Device, Stream
from bindings.dtypes import BF16, F16, F32, DType
from bindings.errors import CutawayError
from bindings.spelled import Spelled, spelled
from bindings.tensor import Tensor
from bindings.trace import recorder


class Constant(IntEnum):
    """A constant of the CUDA headers, of which a trace shows the name."""

    __hash__ = int.__hash__  # an enum's own is slow, and a trace looks arguments up


class Operation(Constant):
    """cublasOperation_t."""

    CUBLAS_OP_N = 0
    CUBLAS_OP_T = 1


class DataType(Constant):
    """cudaDataType."""

    CUDA_R_32F = 0
    CUDA_R_16F = 2
    CUDA_R_16BF = 14


class ComputeType(Constant):
    """cublasComputeType_t."""

    CUBLAS_COMPUTE_32F = 68


class Algorithm(Constant):
    """cublasGemmAlgo_t."""

    CUBLAS_GEMM_DEFAULT = -1


class MathMode(Constant):
    """cublasMath_t. Partial sums stay float32 even where cuBLAS splits K: else it may add bf16-rounded parts."""

    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16


OP_N, OP_T = Operation.CUBLAS_OP_N, Operation.CUBLAS_OP_T
CUDA_TYPE = {F32: DataType.CUDA_R_32F, F16: DataType.CUDA_R_16F, BF16: DataType.CUDA_R_16BF}
COMPUTE_32F, GEMM_DEFAULT = ComputeType.CUBLAS_COMPUTE_32F, Algorithm.CUBLAS_GEMM_DEFAULT

# What NVIDIA's manual recommends for Hopper; enough for every algorithm's split-K buffers on older GPUs too.
WORKSPACE_BYTES = 32 * 1024 * 1024


def invariant_rows() -> int:
    """How many rows each product must have for a row's bits to depend on that row alone; 1: any number will do."""
    rows: int = backend.select().cublas.INVARIANT_ROWS
    return rows


class Blas:
    """A cuBLAS handle bound to one stream, with a workspace of its own (so that products can be captured).

    `block_rows`: the number of rows that `linear` gives to each product; 1: all there are to one product.
    """

    def __init__(self, device: Device, stream: Stream, block_rows: int = 1) -> None:
        self.stream, self.block_rows = stream, block_rows
        self._workspace = device.alloc(WORKSPACE_BYTES, "cublas.workspace")  # first: it may find no room
        self.handle = cublas.cublasCreate()
        cublas.cublasSetStream(self.handle, int(stream.handle))
        cublas.cublasSetWorkspace(self.handle, self._workspace.address, self._workspace.nbytes)
        cublas.cublasSetMathMode(self.handle, MathMode.CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)

    @property
    def version(self) -> int:
        """cuBLAS's version as one number, e.g. 130100 for 13.1.0."""
        return int(cublas.cublasGetVersion(self.handle))

    def gemm(self, out: Tensor, a: Tensor, b: Tensor, *, transpose_b: bool = False) -> None:
        """`out[M, N] = a[M, K] @ b[K, N]`, or `a @ b^T` with b[N, K]; row-major, float32 sums, rounded once to out.

        a and b share one of bf16, f16, f32; out may be that or f32. Raises CutawayError when shapes do not fit.
        """
        m, n, k = _gemm_sizes(out, a, b, transpose_b)
        operand, result = _type(a.dtype), _type(out.dtype)
        if recorder.is_detailed:
            self._tell("gemm", out, a, b, (m, n, k), transpose_b)
        cublas.cublasGemmEx(
            self.handle, OP_T if transpose_b else OP_N, OP_N, n, m, k,
            1.0, b.address, operand, k if transpose_b else n, a.address, operand, k,
            0.0, out.address, result, n, COMPUTE_32F, GEMM_DEFAULT,
        )  # fmt: skip

    def linear(self, out: Tensor, x: Tensor, weight: Tensor) -> None:
        """`out[M, N] = x[M, K] @ weight[N, K]^T`, in blocks of `block_rows` rows where that is not 1.

        Equal shapes, types and alignments let cuBLAS make the same choice for every block, and a row of a product
        depends on no other row. The last block is filled up with what lies behind x in its buffer, and its spare rows
        go behind out: both buffers need room for whole blocks (CutawayError where they have none).
        """
        if self.block_rows == 1:
            return self.gemm(out, x, weight, transpose_b=True)
        for start in range(0, x.shape[0], self.block_rows):
            block_out, block_x = (tensor.rows_from(start, self.block_rows) for tensor in (out, x))
            self.gemm(block_out, block_x, weight, transpose_b=True)

    def gemm_batched(self, out: Tensor, a: Tensor, b: Tensor, *, transpose_b: bool = False) -> None:
        """The product of each matrix of a batch: out[G, M, N], a[G, M, K], b[G, K, N] (or b[G, N, K])."""
        sizes = {out.shape[0], a.shape[0], b.shape[0]}
        if len(sizes) != 1:
            raise CutawayError(f"gemm_batched: batch sizes differ: out {out!r}, a {a!r}, b {b!r}")
        groups = sizes.pop()
        m, n, k = _gemm_sizes(_one(out), _one(a), _one(b), transpose_b)
        operand, result = _type(a.dtype), _type(out.dtype)
        if recorder.is_detailed:
            self._tell("gemm_batched", out, a, b, (m, n, k), transpose_b)
        cublas.cublasGemmStridedBatchedEx(
            self.handle, OP_T if transpose_b else OP_N, OP_N, n, m, k,
            1.0, b.address, operand, k if transpose_b else n, n * k, a.address, operand, k, m * k,
            0.0, out.address, result, n, m * n, groups, COMPUTE_32F, GEMM_DEFAULT,
        )  # fmt: skip

    def _tell(self, op: str, out: Tensor, a: Tensor, b: Tensor, sizes: tuple[int, int, int], transpose_b: bool) -> None:
        """What a trace tells of a product: in row-major words, beside cuBLAS's own arguments."""
        operands = {"out": out, "a": a, "b": b}
        key = (op, *((tensor.address, tensor.dtype.name, tensor.shape) for tensor in operands.values()), transpose_b)
        told = spelled(key, lambda: _describe(op, operands, sizes, transpose_b))
        recorder.tell(operands, **told, stream=self.stream.name)

    def close(self) -> None:
        """Release the handle and its workspace."""
        cublas.cublasDestroy(self.handle)
        self._workspace.free()


def _describe(op: str, operands: dict[str, Tensor], sizes: tuple[int, int, int], transpose_b: bool) -> dict[str, Any]:
    m, n, k = sizes
    return {
        "op": op,
        "tensors": Spelled((name, repr(tensor)) for name, tensor in operands.items()),
        "roles": Spelled(out="out", a="in", b="in"),
        "sizes": Spelled(m=m, n=n, k=k, transpose_b=transpose_b),
        "bytes": sum(tensor.nbytes for tensor in operands.values()),
        "flops": 2 * prod(operands["out"].shape) * k,
    }


def _one(batch: Tensor) -> Tensor:
    return batch[0:1].view(*batch.shape[1:])


def _type(dtype: DType) -> DataType:
    if dtype not in CUDA_TYPE:
        raise CutawayError(f"gemm takes bf16, f16 or f32, not {dtype.name}")
    return CUDA_TYPE[dtype]


def _gemm_sizes(out: Tensor, a: Tensor, b: Tensor, transpose_b: bool) -> tuple[int, int, int]:
    """(M, N, K) of a product, or an error that shows all three operands."""
    m, k = a.shape
    n, b_k = b.shape if transpose_b else (b.shape[1], b.shape[0])
    if b_k != k or out.shape != (m, n) or a.dtype is not b.dtype:
        raise CutawayError(f"gemm: {out!r} = {a!r} @ {b!r}{'^T' if transpose_b else ''} does not fit")
    return m, n, k
