// Kernels that test the execution model of the CPU device: indices, shared memory, barriers, early exits.
#include <cuda_bf16.h>

constexpr int kThreads = 64;

// Each thread writes where it stands: (block number, thread number) in the order that CUDA numbers them.
extern "C" __global__ void write_indices(int* out) {
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * threads + thread] = block * 10000 + thread;
}

struct Pair {
  double wide;
  char narrow;
};

// Parameters of every size, to check the layout that the module reports.
extern "C" __global__ void __launch_bounds__(kThreads * 2)
    take_parameters(char a, const float* b, short c, Pair d, float e, int* out) {
  if (threadIdx.x == 0)
    out[0] = a + static_cast<int>(b[0]) + c + static_cast<int>(d.wide) + d.narrow + int(e);
}

// Reverses a block's values through static shared memory.
extern "C" __global__ void __launch_bounds__(1024) reverse(int* out, const int* in) {
  __shared__ int tile[1024];
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// The same through dynamic shared memory, `offset` bytes into it.
extern "C" __global__ void reverse_dynamic(int* out, const int* in, int offset) {
  extern __shared__ __align__(16) unsigned char smem_raw[];
  int* tile = reinterpret_cast<int*>(smem_raw + offset);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// What a block finds in shared memory before it has written any; then it leaves something for the next block.
extern "C" __global__ void read_unwritten(unsigned* out_static, unsigned* out_dynamic) {
  __shared__ unsigned fixed[kThreads];
  extern __shared__ __align__(16) unsigned char smem_raw[];
  unsigned* dynamic = reinterpret_cast<unsigned*>(smem_raw);
  const int i = blockIdx.x * kThreads + threadIdx.x;
  out_static[i] = fixed[threadIdx.x];
  out_dynamic[i] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 7;
}

// Threads from `first_gone` on return at once; the others still meet at barriers.
extern "C" __global__ void early_return(int* out, int first_gone) {
  __shared__ int tile[1024];
  if (threadIdx.x >= first_gone) return;
  tile[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = tile[first_gone - 1 - threadIdx.x];
}

// A tree sum of blockDim.x values (a power of two), with a barrier at each step.
extern "C" __global__ void tree_sum(int* out, const int* in) {
  __shared__ int partial[1024];
  partial[threadIdx.x] = in[threadIdx.x];
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[0] = partial[0];
}

extern "C" __global__ void votes(int* out, int limit) {
  const bool yes = threadIdx.x < limit;
  out[0] = __syncthreads_count(yes);
  out[1] = __syncthreads_or(yes);
  out[2] = __syncthreads_and(yes);
}

__device__ int calls = 0;
__constant__ int kTable[4] = {10, 20, 30, 40};

extern "C" __global__ void count_threads(int* total, float* float_total, unsigned long long* maximum) {
  atomicAdd(total, 1);
  atomicAdd(float_total, 1.0f);
  atomicMax(maximum, static_cast<unsigned long long>(blockIdx.x * blockDim.x + threadIdx.x));
  atomicAdd(&calls, kTable[threadIdx.x % 4]);
}

extern "C" __global__ void read_calls(int* out) { out[0] = atomicExch(&calls, 0); }

// The last thread to arrive releases those that poll.
extern "C" __global__ void poll(int* out) {
  __shared__ volatile int flag;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x == blockDim.x - 1) flag = 1;
  while (flag == 0) __nanosleep(20);
  out[threadIdx.x] = flag;
}

extern "C" __global__ void say(int number) {
  if (threadIdx.x == 0) printf("block %d says %d\n", blockIdx.x, number);
}

extern "C" __global__ void chosen_path(int* out) {
#if __CUDA_ARCH__ >= 800
  out[0] = 800;
#else
  out[0] = 0;
#endif
}
