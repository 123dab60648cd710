"""The rungs of the ladders in cuda_src/lab: the same operation from the first idea to the production kernel.

Each rung is a spec like those in ops.py, so that checks, tests and timing treat it as any other operation. A ladder
whose operation has a production kernel is made of variants of its spec; softmax has none (attention contains it).
"""

from bindings.dtypes import BF16, F32
from engine import ops
from engine.lab_attention_ops import ATTENTION_LADDER
from engine.spec import In, Launch, Op, Out, Scalar, Size

THREADS = 256


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)


_RMSNORM_BY_ROW = (
    Out("out", BF16, "T H"),
    In("x", BF16, "T H"),
    In("weight", BF16, "H"),
    Scalar("eps", F32),
    Size("rows", "T"),
    Size("hidden", "H"),
)

RMSNORM_LADDER = (
    ops.RMSNORM.variant(
        name="rmsnorm_v1_naive",
        source="lab/rmsnorm/v1_naive.cu",
        summary="one thread a row",
        args=_RMSNORM_BY_ROW,
        constants={"BLOCK_THREADS": THREADS},
        launch=lambda s: Launch((_blocks(s.T),), THREADS),
    ),
    ops.RMSNORM.variant(
        name="rmsnorm_v2_shared_memory",
        source="lab/rmsnorm/v2_shared_memory.cu",
        summary="one block a row, a tree in shared memory",
        constants={"BLOCK_THREADS": THREADS},
        launch=lambda s: Launch((s.T,), THREADS),
    ),
    ops.RMSNORM.variant(
        name="rmsnorm_v3_warp_shuffles",
        source="lab/rmsnorm/v3_warp_shuffles.cu",
        summary="the tree's lower levels by warp shuffles",
        constants={"BLOCK_THREADS": THREADS},
        launch=lambda s: Launch((s.T,), THREADS),
    ),
    ops.RMSNORM.variant(
        name="rmsnorm_v4_production",
        source="lab/rmsnorm/v4_production.cu",
        summary="16-byte loads, the row held in registers: the production kernel",
    ),
)

_SOFTMAX_BY_BLOCK = (Out("out", F32, "T N"), In("x", F32, "T N"), Size("length", "N"))
_SOFTMAX_BY_ROW = (Out("out", F32, "T N"), In("x", F32, "T N"), Size("rows", "T"), Size("length", "N"))

SOFTMAX_NAIVE = Op(
    "softmax_v1_naive",
    source="lab/softmax/v1_naive.cu",
    entry="softmax",
    summary="one thread a row, three passes, no maximum: overflows",
    args=_SOFTMAX_BY_ROW,
    constants={"BLOCK_THREADS": THREADS},
    launch=lambda s: Launch((_blocks(s.T),), THREADS),
    bytes=lambda s: 8 * s.T * s.N,
    flops=lambda s: 4 * s.T * s.N,
)

SOFTMAX_LADDER = (
    SOFTMAX_NAIVE,
    SOFTMAX_NAIVE.variant(
        name="softmax_v2_safe",
        source="lab/softmax/v2_safe.cu",
        summary="subtract the maximum; one block a row",
        args=_SOFTMAX_BY_BLOCK,
        launch=lambda s: Launch((s.T,), THREADS),
    ),
    SOFTMAX_NAIVE.variant(
        name="softmax_v3_online",
        source="lab/softmax/v3_online.cu",
        summary="maximum and sum in one pass",
        args=_SOFTMAX_BY_BLOCK,
        launch=lambda s: Launch((s.T,), THREADS),
    ),
    SOFTMAX_NAIVE.variant(
        name="softmax_v4_warp_per_row",
        source="lab/softmax/v4_warp_per_row.cu",
        summary="one warp a row, no barrier",
        launch=lambda s: Launch((_blocks(s.T * 32),), THREADS),
    ),
)

ALL: dict[str, Op] = {op.name: op for op in (*RMSNORM_LADDER, *SOFTMAX_LADDER, *ATTENTION_LADDER)}
