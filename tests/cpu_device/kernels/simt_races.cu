// One right kernel and wrong ones: each lacks one barrier that a GPU may seem not to need.
#include "common.cuh"
#include "reduce.cuh"

// Right: two block sums in a row, each with scratch of its own.
extern "C" __global__ void two_sums(float* out, const float* in) {
  __shared__ float first[kMaxWarps];
  __shared__ float second[kMaxWarps];
  const float value = in[blockIdx.x * blockDim.x + threadIdx.x];
  const float sum = block_sum(value, first);
  const float squares = block_sum(value * value, second);
  out[blockIdx.x * blockDim.x + threadIdx.x] = value / (sum + squares);
}

// Wrong: the second sum overwrites the scratch that a slow warp still reads.
extern "C" __global__ void two_sums_one_scratch(float* out, const float* in) {
  __shared__ float scratch[kMaxWarps];
  const float value = in[blockIdx.x * blockDim.x + threadIdx.x];
  const float sum = block_sum(value, scratch);
  const float squares = block_sum(value * value, scratch);
  out[blockIdx.x * blockDim.x + threadIdx.x] = value / (sum + squares);
}

// Wrong: no barrier between writing the tile and reading the value of the thread before.
extern "C" __global__ void shift_without_barrier(float* out, const float* in) {
  __shared__ float tile[1024];
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = threadIdx.x == 0 ? 0.0f : tile[threadIdx.x - 1];
}

// Wrong: lanes of a warp do not run in lockstep, so this needs __syncwarp().
extern "C" __global__ void swap_without_syncwarp(float* out, const float* in) {
  __shared__ float tile[32];
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// Right, and done by one block: the sum of what every block before it left.
extern "C" __global__ void last_block_sums(float* out, float* partial, unsigned* arrived, const float* in) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = in[blockIdx.x];
    __threadfence();
    is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x != 0) return;
  __threadfence();
  float sum = 0.0f;
  for (int i = 0; i < gridDim.x; ++i) sum += static_cast<volatile float*>(partial)[i];
  out[0] = sum;
}
