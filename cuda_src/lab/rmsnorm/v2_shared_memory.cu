// RMSNorm, rung 2 of 4: one block a row, the sum as a tree in shared memory.
//
// Idea:      parallel within the row. Neighbouring threads read neighbouring addresses, so a warp's load uses
//            every byte of the sectors that it touches. The partial sums meet in shared memory: in each step
//            the lower half of the threads adds the upper half's values, log2(BLOCK_THREADS) steps with a
//            barrier after each.
// Formula:   out[t][h] = x[t][h] / sqrt(mean_h(x[t][h]^2) + eps) * weight[h]
// Pointers:  out     bf16 [T, H]   written
//            x       bf16 [T, H]
//            weight  bf16 [H]
//            T rows, H hidden size; rows are contiguous.
// Threads:   block t owns row t; thread i takes columns i, i + BLOCK_THREADS, ... It is a power of two.
// Bytes:     reads 4*T*H + 2*H (the second reading of a row may come from the L1 cache), writes 2*T*H.
// Source:    Harris, "Optimizing Parallel Reduction in CUDA", NVIDIA 2007 (sequential addressing).
// Test:      python -m pytest tests/device -k rmsnorm_v2
//            python -m tools.microtest rmsnorm_v2_shared_memory
#include "common.cuh"

// The sum over the block; every thread gets it.
__device__ inline float shared_memory_sum(float value) {
  __shared__ float partial[BLOCK_THREADS];
  partial[threadIdx.x] = value;
  __syncthreads();
  for (int half = BLOCK_THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  return partial[0];
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    rmsnorm(bf16* __restrict__ out, const bf16* __restrict__ x, const bf16* __restrict__ weight, float eps,
            int hidden) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;
  float squares = 0.0f;
  for (int h = threadIdx.x; h < hidden; h += BLOCK_THREADS) {
    const float value = __bfloat162float(x[row + h]);
    squares = fmaf(value, value, squares);
  }
  const float factor = rsqrtf(shared_memory_sum(squares) / static_cast<float>(hidden) + eps);
  for (int h = threadIdx.x; h < hidden; h += BLOCK_THREADS) {
    out[row + h] = __float2bfloat16(__bfloat162float(x[row + h]) * factor * __bfloat162float(weight[h]));
  }
}
