// RMSNorm, rung 1 of 4: one thread a row, straight from the formula.
//
// Idea:      none yet. A thread walks its row twice. Neighbouring threads read addresses a whole row apart:
//            each load of a warp touches 32 sectors of memory and uses 2 of the 32 bytes in each. And there
//            are only T threads.
// Formula:   out[t][h] = x[t][h] / sqrt(mean_h(x[t][h]^2) + eps) * weight[h]
// Pointers:  out     bf16 [T, H]   written
//            x       bf16 [T, H]
//            weight  bf16 [H]
//            T rows, H hidden size; rows are contiguous.
// Threads:   thread t of the grid owns row t.
// Bytes:     reads 4*T*H + 2*H (each row twice), writes 2*T*H.
// Source:    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
// Test:      python -m pytest tests/device -k rmsnorm_v1
//            python -m tools.microtest rmsnorm_v1_naive
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    rmsnorm(bf16* __restrict__ out, const bf16* __restrict__ x, const bf16* __restrict__ weight, float eps,
            int rows, int hidden) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
  if (row >= rows) return;
  x += row * hidden;
  out += row * hidden;

  float squares = 0.0f;
  for (int h = 0; h < hidden; ++h) {
    const float value = __bfloat162float(x[h]);
    squares = fmaf(value, value, squares);
  }
  const float factor = rsqrtf(squares / static_cast<float>(hidden) + eps);
  for (int h = 0; h < hidden; ++h) {
    out[h] = __float2bfloat16(__bfloat162float(x[h]) * factor * __bfloat162float(weight[h]));
  }
}
