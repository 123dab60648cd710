"""Faults in the rungs of cuda_src/lab; the last rung of a ladder includes the production kernel."""

from __future__ import annotations

from tests.mutants.kernels import ordered, right
from tests.mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "rmsnorm-v1-one-row-too-many",
        "cuda_src/lab/rmsnorm/v1_naive.cu",
        "if (row >= rows) return;",
        "if (row > rows) return;",
        ">= became >: a thread takes a row past the end",
        right("rmsnorm_v1_naive-T1-H8"),
    ),
    Mutant(
        "rmsnorm-v2-no-barrier",
        "cuda_src/lab/rmsnorm/v2_shared_memory.cu",
        "    __syncthreads();\n  }\n",
        "  }\n",
        "the levels of the tree run into each other",
        ordered("rmsnorm_v2_shared_memory-T3-H576"),
    ),
    Mutant(
        "rmsnorm-v3-wrong-row",
        "cuda_src/lab/rmsnorm/v3_warp_shuffles.cu",
        "static_cast<int64_t>(blockIdx.x) * hidden",
        "static_cast<int64_t>(blockIdx.x) * BLOCK_THREADS",
        "the stride of a row",
        right("rmsnorm_v3_warp_shuffles-T3-H576"),
    ),
    Mutant(
        "rmsnorm-v4-no-weight",
        "cuda_src/rmsnorm.cu",
        "value * __bfloat162float(weight.vectors[i][j])",
        "value",
        "the weight is ignored",
        right("rmsnorm_v4_production-T1-H8"),
    ),
    Mutant(
        "softmax-v1-forgets-the-first",
        "cuda_src/lab/softmax/v1_naive.cu",
        "for (int i = 0; i < length; ++i) sum",
        "for (int i = 1; i < length; ++i) sum",
        "the sum begins at the second element",
        right("softmax_v1_naive-T3-N7"),
    ),
    Mutant(
        "softmax-v2-one-scratch",
        "cuda_src/lab/softmax/v2_safe.cu",
        "block_sum(sum, sum_scratch)",
        "block_sum(sum, max_scratch)",
        "scratch memory is used again without a barrier",
        ordered("softmax_v2_safe-T2-N576"),
    ),
    Mutant(
        "softmax-v3-sum-not-rescaled",
        "cuda_src/lab/softmax/online.cuh",
        "sum = sum * __expf(largest - x) + 1.0f;",
        "sum = sum + 1.0f;",
        "the sum stays relative to an older maximum",
        right("softmax_v3_online-ascending"),
    ),
    Mutant(
        "softmax-v4-one-row-a-block",
        "cuda_src/lab/softmax/v4_warp_per_row.cu",
        "* kWarps + threadIdx.x / kWarpSize;",
        "* kWarps;",
        "all warps of a block take the same row",
        right("softmax_v4_warp_per_row-T3-N7"),
    ),
    Mutant(
        "attention-v1-blind-to-itself",
        "cuda_src/lab/attention/v1_naive.cu",
        "- query_len + query + 1;",
        "- query_len + query;",
        "a query does not see its own key",
        right("prefill_attention_v1_naive-Q3-after5"),
    ),
    Mutant(
        "attention-v2-no-reuse-barrier",
        "cuda_src/lab/attention/v2_tiled.cu",
        "    __syncthreads();\n    load_tile(k_tile",
        "    load_tile(k_tile",
        "the next tiles are written while the last are read",
        ordered("prefill_attention_v2_tiled-Q3-after200"),
    ),
    Mutant(
        "attention-tile-lacks-a-piece",
        "cuda_src/lab/attention/tile.cuh",
        "i < num_rows * kPieces;",
        "i < num_rows * kPieces - 1;",
        "the last 16 bytes of a tile are not copied",
        right("prefill_attention_v2_tiled-Q3-after5"),
    ),
    Mutant(
        "attention-v3-no-barrier",
        "cuda_src/lab/attention/v3_online.cu",
        "    __syncthreads();\n    const int visible",
        "    const int visible",
        "keys are read before they are there",
        ordered("prefill_attention_v3_online-Q17-after0"),
    ),
    Mutant(
        "attention-v4-writes-past-its-queries",
        "cuda_src/prefill_attention.cu",
        "    if (row >= num_rows) continue;\n",
        "",
        "rows past the last query are written",
        right("prefill_attention_v4_tensor_cores-Q3-after0"),
    ),
]
