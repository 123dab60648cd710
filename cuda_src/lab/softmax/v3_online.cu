// Softmax, rung 3 of 4: maximum and sum in one pass over the row.
//
// Idea:      online softmax. Each thread keeps the maximum so far and the sum relative to it, and rescales
// the
//            sum when the maximum grows. The row is read twice instead of three times.
// Formula:   m = max_j x[t][j];  out[t][i] = exp(x[t][i] - m) / sum_j exp(x[t][j] - m)
// Pointers:  out  f32 [T, N]   written
//            x    f32 [T, N]
//            T rows of N with at least one number above -infinity each; rows are contiguous.
// Threads:   block t owns row t; thread i takes columns i, i + BLOCK_THREADS, ...
// Bytes:     reads 8*T*N (each row twice), writes 4*T*N.
// Source:    Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.
// Test:      python -m pytest tests/device -k softmax_v3
//            python -m tools.microtest softmax_v3_online
#include "common.cuh"
#include "online.cuh"
#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    softmax(float* __restrict__ out, const float* __restrict__ x, int length) {
  __shared__ float max_scratch[kMaxWarps];
  __shared__ float sum_scratch[kMaxWarps];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * length;

  OnlineSoftmax state;
  for (int i = threadIdx.x; i < length; i += BLOCK_THREADS) state.push(x[row + i]);
  const float largest = block_max(state.largest, max_scratch);
  const float sum = block_sum(state.sum_relative_to(largest), sum_scratch);

  for (int i = threadIdx.x; i < length; i += BLOCK_THREADS) out[row + i] = __expf(x[row + i] - largest) / sum;
}
