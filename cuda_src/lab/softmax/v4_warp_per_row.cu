// Softmax, rung 4 of 4: one warp a row, no shared memory and no barrier.
//
// Idea:      what a warp can do alone needs no barrier, and the warps of a block never wait for each other:
// the
//            choice for many rows of up to some thousand elements. Attention kernels use the same scheme
//            inside: there the "row" is a query's scores, made tile by tile and never written to memory.
// Formula:   m = max_j x[t][j];  out[t][i] = exp(x[t][i] - m) / sum_j exp(x[t][j] - m)
// Pointers:  out  f32 [T, N]   written
//            x    f32 [T, N]
//            T rows of N with at least one number above -infinity each; rows are contiguous.
// Threads:   warp w of the grid owns row w; lane i takes columns i, i + 32, ...
// Bytes:     reads 8*T*N (each row twice), writes 4*T*N.
// Source:    Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022,
//            arXiv:2205.14135, for the use inside attention.
// Test:      python -m pytest tests/device -k softmax_v4
//            python -m tools.microtest softmax_v4_warp_per_row
#include "common.cuh"
#include "online.cuh"
#include "reduce.cuh"

constexpr int kWarps = BLOCK_THREADS / kWarpSize;

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    softmax(float* __restrict__ out, const float* __restrict__ x, int rows, int length) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= rows) return;  // a whole warp leaves: the shuffles below still find all 32 lanes
  const int lane = threadIdx.x % kWarpSize;
  x += row * length;
  out += row * length;

  OnlineSoftmax state;
  for (int i = lane; i < length; i += kWarpSize) state.push(x[i]);
  const float largest = warp_max(state.largest);
  const float sum = warp_sum(state.sum_relative_to(largest));

  for (int i = lane; i < length; i += kWarpSize) out[i] = __expf(x[i] - largest) / sum;
}
