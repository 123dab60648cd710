// ptx_before_sm80.cuh beside the twins of the instructions, and the prefill attention that is made of it.
#include "ptx.cuh"
#include "ptx_before_sm80.cuh"

// a[lane][4], b[lane][2], c[lane][4] -> d[lane][4], of the instruction's twin and of the emulation
extern "C" __global__ void both_mma(float* twin, float* emulated, const uint32_t* a, const uint32_t* b,
                                    const float* c) {
  const int lane = threadIdx.x % kWarpSize;
  uint32_t fragment_a[4], fragment_b[2];
  float accumulator[4], d[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) accumulator[i] = c[lane * 4 + i];
  mma_m16n8k16_bf16(d, fragment_a, fragment_b, accumulator);
  for (int i = 0; i < 4; ++i) twin[threadIdx.x * 4 + i] = d[i];
  mma_m16n8k16_bf16_by_shuffles(accumulator, fragment_a, fragment_b, accumulator);  // in place, as kernels do
  for (int i = 0; i < 4; ++i) emulated[threadIdx.x * 4 + i] = accumulator[i];
}

// Each thread copies 4 floats, those from `valid_threads` on as zeros; read by another thread of the block.
extern "C" __global__ void copy_by_registers(float* out, const float* in, int valid_threads) {
  __shared__ __align__(16) float tile[2][32][4];
  const int lane = threadIdx.x;
  const bool valid = lane < valid_threads;
  cp_async_16_by_registers(tile[0][lane], in + lane * 4);
  cp_async_16_zfill_by_registers(tile[1][lane], valid ? in + lane * 4 : nullptr, valid);
  __syncthreads();
  for (int i = 0; i < 8; ++i) out[lane * 8 + i] = tile[i / 4][31 - lane][i % 4];
}
