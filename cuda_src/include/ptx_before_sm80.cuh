// What a GPU before sm_80 lacks of ptx.cuh, made of what every GPU has: slower, and the same to a caller.
//
// ptx.cuh gives these their instructions' names there. They are plain CUDA, so the CPU device compiles this
// very text too, and tests/cpu_device/test_before_sm80.py holds it to the twins of the instructions.
#pragma once

#include "common.cuh"

// The two bf16 of a register, widened: bf16 is the upper half of a float32.
__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// The lane's share of A * B + C: 32 shuffles and 64 FMAs. For each pair of k the lane fetches the words of its
// two rows of A and its two columns of B from their holders, and adds in order of k. A function of its own,
// with arguments in registers: inlined at every mma of a kernel, it would keep the compiler busy for a minute.
__device__ __noinline__ float4 multiply_by_shuffles(uint4 a, uint2 b, float4 c) {
  const int lane = threadIdx.x % kWarpSize;
  const int first_of_rows = lane / 4 * 4;     // four lanes hold a row of A, and the row 8 below
  const int first_of_columns = lane % 4 * 8;  // four lanes hold a column of B, the next four the next column
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const uint32_t upper = __shfl_sync(kFullWarp, k < 4 ? a.x : a.z, first_of_rows + k % 4);
    const uint32_t lower = __shfl_sync(kFullWarp, k < 4 ? a.y : a.w, first_of_rows + k % 4);
    const uint32_t left = __shfl_sync(kFullWarp, k < 4 ? b.x : b.y, first_of_columns + k % 4);
    const uint32_t right = __shfl_sync(kFullWarp, k < 4 ? b.x : b.y, first_of_columns + 4 + k % 4);
    c.x = fmaf(high_bf16(upper), high_bf16(left), fmaf(low_bf16(upper), low_bf16(left), c.x));
    c.y = fmaf(high_bf16(upper), high_bf16(right), fmaf(low_bf16(upper), low_bf16(right), c.y));
    c.z = fmaf(high_bf16(lower), high_bf16(left), fmaf(low_bf16(lower), low_bf16(left), c.z));
    c.w = fmaf(high_bf16(lower), high_bf16(right), fmaf(low_bf16(lower), low_bf16(right), c.w));
  }
  return c;
}

// mma_m16n8k16_bf16 without tensor cores: Turing's take f16, whose exponents are too few for bf16. See there for
// who holds what. All 32 lanes must call.
__device__ inline void mma_m16n8k16_bf16_by_shuffles(float (&d)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2], const float (&c)[4]) {
  const float4 sum = multiply_by_shuffles({a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]});
  d[0] = sum.x;
  d[1] = sum.y;
  d[2] = sum.z;
  d[3] = sum.w;
}

// cp_async_16 that is done when it returns. A copy may be that early: its target must be free when it begins,
// and nobody counts on its bytes before the wait, which then has nothing to wait for.
__device__ inline void cp_async_16_by_registers(void* smem, const void* gmem) {
  *static_cast<int4*>(smem) = *static_cast<const int4*>(gmem);
}

// cp_async_16_zfill, likewise.
__device__ inline void cp_async_16_zfill_by_registers(void* smem, const void* gmem, bool valid) {
  *static_cast<int4*>(smem) = valid ? *static_cast<const int4*>(gmem) : int4{0, 0, 0, 0};
}
