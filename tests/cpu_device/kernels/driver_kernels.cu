// Kernels for the tests of the CPU device's driver.
#include "common.cuh"

struct Affine {
  float factor, offset;
};

extern "C" __global__ void __launch_bounds__(256)
    affine(float* out, const float* in, Affine map, char negate, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float value = i < count ? in[i] * map.factor + map.offset : 0.0f;
  if (i < count) out[i] = negate ? -value : value;
}

extern "C" __global__ void shared_bytes(int* out, int bytes) {
  extern __shared__ __align__(16) unsigned char smem_raw[];
  smem_raw[bytes - 1] = 42;
  out[0] = smem_raw[bytes - 1];
}

extern "C" __global__ void store_at(float* out, long long index) { out[index] = 1.0f; }

extern "C" __global__ void check_that(int condition) { assert(condition); }

extern "C" __global__ void nothing() {}
