// A kernel with static shared memory; in a module of its own, since the CPU device counts it by the module.
extern "C" __global__ void static_shared(int* out) {
  __shared__ int values[1024];
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
