// Kernels that go wrong, each in one way.
#include "common.cuh"

extern "C" __global__ void write_at(int* address, int guilty_thread) {
  if (threadIdx.x == guilty_thread) *address = 1;
}

extern "C" __global__ void overrun_shared(int* out, int index) {
  extern __shared__ __align__(16) unsigned char smem_raw[];
  volatile float* tile = reinterpret_cast<float*>(smem_raw);
  tile[threadIdx.x] = 1.0f;
  if (threadIdx.x == 3) out[0] = static_cast<int>(tile[index]);
}

extern "C" __global__ void divide(int* out, int divisor) { out[threadIdx.x] = out[threadIdx.x] / divisor; }

__device__ __noinline__ int descend(int depth, volatile int* out) {
  volatile char frame[1024];
  frame[depth % 1024] = static_cast<char>(depth);
  if (depth == 0) return 0;
  return descend(depth - 1, out) + frame[depth % 1024];
}
extern "C" __global__ void overflow_stack(int* out) { out[threadIdx.x] = descend(1000000, out); }

extern "C" __global__ void misaligned(int* out, const int* in) { store16(out, load16(in + 1)); }

extern "C" __global__ void trap_in_block(int guilty_block) {
  if (blockIdx.x == guilty_block) __trap();
}

extern "C" __global__ void check(int value) { assert(value == 1 && threadIdx.x < 5); }

extern "C" __global__ void barrier_in_branch(int* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = __shfl_sync(kFullWarp, 1, 0);
}

extern "C" __global__ void two_different_barriers(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

extern "C" __global__ void fine(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1; }
