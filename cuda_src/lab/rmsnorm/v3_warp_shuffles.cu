// RMSNorm, rung 3 of 4: the tree's lower five levels in registers, by warp shuffles.
//
// Idea:      the 32 lanes of a warp can read each other's registers: five steps of the tree need neither
//            shared memory nor a barrier. Shared memory carries one value a warp; one of nine barriers stays.
// Formula:   out[t][h] = x[t][h] / sqrt(mean_h(x[t][h]^2) + eps) * weight[h]
// Pointers:  out     bf16 [T, H]   written
//            x       bf16 [T, H]
//            weight  bf16 [H]
//            T rows, H hidden size; rows are contiguous.
// Threads:   block t owns row t; thread i takes columns i, i + BLOCK_THREADS, ...
// Bytes:     reads 4*T*H + 2*H (the second reading of a row may come from the L1 cache), writes 2*T*H.
// Source:    Luitjens, "Faster Parallel Reductions on Kepler", NVIDIA 2014.
// Test:      python -m pytest tests/device -k rmsnorm_v3
//            python -m tools.microtest rmsnorm_v3_warp_shuffles
#include "common.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    rmsnorm(bf16* __restrict__ out, const bf16* __restrict__ x, const bf16* __restrict__ weight, float eps,
            int hidden) {
  __shared__ float scratch[kMaxWarps];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;
  float squares = 0.0f;
  for (int h = threadIdx.x; h < hidden; h += BLOCK_THREADS) {
    const float value = __bfloat162float(x[row + h]);
    squares = fmaf(value, value, squares);
  }
  const float factor = rsqrtf(block_sum(squares, scratch) / static_cast<float>(hidden) + eps);
  for (int h = threadIdx.x; h < hidden; h += BLOCK_THREADS) {
    out[row + h] = __float2bfloat16(__bfloat162float(x[row + h]) * factor * __bfloat162float(weight[h]));
  }
}
