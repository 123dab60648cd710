// Softmax, rung 1 of 4: one thread a row, straight from the formula, in three passes.
//
// Idea:      none yet, and it is wrong for large inputs: in float32 exp(x) is infinite from x = 88.73 on and 0
//            from -104 down, and infinity / infinity and 0 / 0 are NaN.
// Formula:   out[t][i] = exp(x[t][i]) / sum_j exp(x[t][j])
// Pointers:  out  f32 [T, N]   written; holds the exponentials between the passes
//            x    f32 [T, N]
//            T rows of N; rows are contiguous.
// Threads:   thread t of the grid owns row t.
// Bytes:     reads 4*T*N and writes 4*T*N in the first pass, reads 4*T*N in the second, both in the third.
// Source:    the textbook definition.
// Test:      python -m pytest tests/device -k softmax_v1
//            python -m tools.microtest softmax_v1_naive
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    softmax(float* __restrict__ out, const float* __restrict__ x, int rows, int length) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
  if (row >= rows) return;
  x += row * length;
  out += row * length;

  for (int i = 0; i < length; ++i) out[i] = __expf(x[i]);
  float sum = 0.0f;
  for (int i = 0; i < length; ++i) sum += out[i];
  for (int i = 0; i < length; ++i) out[i] /= sum;
}
