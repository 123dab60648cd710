// Parallel tree reductions: 32 values of a warp in 5 steps, a whole block in two levels of them.
//
// A sum of n floats taken as a tree has depth log2(n), so its rounding error grows with log2(n) * 2^-24 and
// not with n * 2^-24 as a running sum's does. The order is fixed by the thread's index: the result is the
// same on every run.
#pragma once

#include "common.cuh"

// A butterfly: in each step a lane takes the value of the lane whose number differs in one bit. `width` is a
// power of two up to 32; each group of `width` neighbouring lanes is reduced on its own, and all its lanes
// get the result.
template <typename T, typename Combine>
__device__ inline T warp_reduce(T value, int width, Combine combine) {
  for (int bit = width / 2; bit > 0; bit /= 2) {
    value = combine(value, __shfl_xor_sync(kFullWarp, value, bit));
  }
  return value;
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// Drops a NaN when the other operand is a number.
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// All 32 lanes must call these two; all of them get the result.
__device__ inline float warp_sum(float value) { return warp_reduce(value, kWarpSize, Sum()); }
__device__ inline float warp_max(float value) { return warp_reduce(value, kWarpSize, Max()); }

// Reduces one value of each thread. Every thread of the block must call it, a multiple of 32 threads, and
// every one gets the result; `identity` is the value that changes nothing. Level 1: each warp reduces its 32
// values and leaves one in `scratch`. Level 2: each warp reduces those by itself, which saves the second
// barrier that a broadcast from one warp would need.
//
// `scratch` is kMaxWarps values of shared memory. Two calls in a row on one scratch race, since the second
// writes while a slow warp still reads the first's values: give each call its own, or put a barrier between.
template <typename T, typename Combine>
__device__ inline T block_reduce(T value, T identity, T* scratch, Combine combine) {
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int num_warps = blockDim.x / kWarpSize;
  value = warp_reduce(value, kWarpSize, combine);
  if (num_warps == 1) return value;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();

  int width = 1;
  while (width < num_warps) width *= 2;
  const int source = lane % width;
  return warp_reduce(source < num_warps ? scratch[source] : identity, width, combine);
}

__device__ inline float block_sum(float value, float* scratch) {
  return block_reduce(value, 0.0f, scratch, Sum());
}

__device__ inline float block_max(float value, float* scratch) {
  return block_reduce(value, -kInfinity, scratch, Max());
}
