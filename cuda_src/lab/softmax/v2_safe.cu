// Softmax, rung 2 of 4: subtract the maximum; one block a row, maximum and sum as trees.
//
// Idea:      exp(x - m) / sum exp(x - m) is the same number for every m. With m the row's maximum no
// exponential
//            exceeds 1: nothing overflows, and what underflows is too small to matter. The price is a pass of
//            its own for m.
// Formula:   m = max_j x[t][j];  out[t][i] = exp(x[t][i] - m) / sum_j exp(x[t][j] - m)
// Pointers:  out  f32 [T, N]   written
//            x    f32 [T, N]
//            T rows of N with at least one number above -infinity each; rows are contiguous.
// Threads:   block t owns row t; thread i takes columns i, i + BLOCK_THREADS, ...
// Bytes:     reads 12*T*N (each row three times), writes 4*T*N.
// Source:    "safe softmax" in Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
//            arXiv:1805.02867, algorithm 2.
// Test:      python -m pytest tests/device -k softmax_v2
//            python -m tools.microtest softmax_v2_safe
#include "common.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    softmax(float* __restrict__ out, const float* __restrict__ x, int length) {
  __shared__ float max_scratch[kMaxWarps];
  __shared__ float sum_scratch[kMaxWarps];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * length;

  float largest = -kInfinity;
  for (int i = threadIdx.x; i < length; i += BLOCK_THREADS) largest = fmaxf(largest, x[row + i]);
  largest = block_max(largest, max_scratch);

  float sum = 0.0f;
  for (int i = threadIdx.x; i < length; i += BLOCK_THREADS) sum += __expf(x[row + i] - largest);
  sum = block_sum(sum, sum_scratch);

  for (int i = threadIdx.x; i < length; i += BLOCK_THREADS) out[row + i] = __expf(x[row + i] - largest) / sum;
}
