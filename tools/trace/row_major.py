"""Why a product's operands are swapped when cuBLAS is asked, in the numbers of that very call (bindings/cublas.py)."""

from __future__ import annotations

from bindings.trace import Event
from tools.trace.events import shape_of


def sizes(tensor: str) -> list[int]:
    """The shape in a spelled tensor: "activations.qkv:bf16[5, 960]" -> [5, 960]."""
    return [int(size) for size in shape_of(tensor).partition("[")[2].rstrip("]").split(",")]


def row_major_trick(event: Event) -> str:
    """The argument, for the call of one product."""
    args, transposed = event["args"], event["sizes"]["transpose_b"]
    out, a, b = (sizes(event["tensors"][name]) for name in ("out", "a", "b"))
    (m, n), k = out[-2:], a[-1]
    want = f"out[{m}, {n}] = a[{m}, {k}] @ b[{b[-2]}, {b[-1]}]{'^T' if transposed else ''}"
    seen = f"it sees b as [{b[-1]}, {b[-2]}]"
    if transposed:
        turn = f"{seen}, and transa=CUBLAS_OP_T turns it back to the [{n}, {k}] that m and k ask for"
    else:
        turn = f"{seen}, which is what m and k ask for, so transa=CUBLAS_OP_N leaves it"
    return (
        f"Why the operands are swapped: we want {want}, and each matrix lies in memory row by row. cuBLAS reads memory"
        f" column by column, so it sees the transpose of each. Nothing is moved: it is asked for out^T[{n}, {m}]."
        f" A product's transpose is the product of the transposes in the other order, so b becomes its A and a its B,"
        f" and its m={args['m']}, n={args['n']}, k={args['k']} are our columns, rows and inner size."
        f" lda={args['lda']} is the number of elements from one row of b to the next (ldb={args['ldb']}: of a,"
        f" ldc={args['ldc']}: of out); {turn}."
    )
