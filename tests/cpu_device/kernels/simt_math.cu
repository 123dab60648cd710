// One row of results for each intrinsic, so that the test can hold each against NumPy.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void float_functions(float* out, const float* x, const float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float a = x[i], b = y[i];
  float sine, cosine;
  sincosf(a, &sine, &cosine);
  const float results[] = {
      __expf(a),      exp2f(a),     __logf(b),        __log2f(b),         __log10f(b),     __powf(b, a),
      rsqrtf(b),      __frcp_rn(b), __fdividef(a, b), __fmaf_rn(a, b, a), __fadd_rn(a, b), __fmul_rn(a, b),
      __saturatef(a), sine,         cosine,           __sinf(a),          __cosf(a),       tanhf(a),
      erff(a),        fmaxf(a, b),  min(a, b),        max(a, b),          __fsqrt_rn(b),   __frsqrt_rn(b)};
  for (int j = 0; j < 24; ++j) out[j * n + i] = results[j];
}

extern "C" __global__ void integer_functions(unsigned* out, const unsigned* x, const unsigned* y, int n) {
  const int i = threadIdx.x;
  const unsigned a = x[i], b = y[i];
  const int sa = static_cast<int>(a), sb = static_cast<int>(b);
  const unsigned long long wide = static_cast<unsigned long long>(a) << 32 | b;
  const unsigned results[] = {static_cast<unsigned>(__popc(a)),
                              static_cast<unsigned>(__clz(sa)),
                              static_cast<unsigned>(__ffs(sa)),
                              __brev(a),
                              __umulhi(a, b),
                              static_cast<unsigned>(__mulhi(sa, sb)),
                              __byte_perm(a, b, 0x5140),
                              __byte_perm(a, b, 0x9b3f),
                              __funnelshift_l(a, b, 12),
                              __funnelshift_r(a, b, 12),
                              static_cast<unsigned>(__dp4a(sa, sb, 5)),
                              static_cast<unsigned>(min(sa, sb)),
                              max(a, b),
                              static_cast<unsigned>(__popcll(wide)),
                              static_cast<unsigned>(__clzll(static_cast<long long>(wide >> 40))),
                              static_cast<unsigned>(__umul64hi(wide, wide)),
                              __float_as_uint(__uint_as_float(a)),
                              static_cast<unsigned>(__ffsll(static_cast<long long>(wide)))};
  for (int j = 0; j < 18; ++j) out[j * n + i] = results[j];
}

extern "C" __global__ void float_to_int(int* out, const float* x, int n) {
  const int i = threadIdx.x;
  out[i] = __float2int_rn(x[i]);
  out[n + i] = __float2int_rz(x[i]);
  out[2 * n + i] = __float2int_rd(x[i]);
  out[3 * n + i] = __float2int_ru(x[i]);
  out[4 * n + i] = static_cast<int>(__float2uint_rn(x[i]));
}

// bf16 and fp16 through the functions that a host compiler lacks.
extern "C" __global__ void half_functions(float* out, const float* x, const float* y) {
  const int i = threadIdx.x;
  const __nv_bfloat16 a = __float2bfloat16(x[i]), b = __float2bfloat16(y[i]);
  const __half c = __float2half(x[i]), d = __float2half(y[i]);
  out[i] = __bfloat162float(__hfma(a, b, a));
  out[32 + i] = __half2float(__hfma(c, d, c));
  const __nv_bfloat162 pair =
      __hfma2(__halves2bfloat162(a, b), __halves2bfloat162(b, a), __halves2bfloat162(b, b));
  out[64 + i] = __low2float(pair);
  out[96 + i] = __high2float(pair);
  out[128 + i] = __bfloat162float(hexp(a));
  out[160 + i] = __half2float(hrsqrt(__habs(d)));
}

template <typename T>
__device__ void atomics(T* cells, T* old, T value) {
  old[0] = atomicAdd(&cells[0], value);
  old[1] = atomicSub(&cells[1], value);
  old[2] = atomicMax(&cells[2], value);
  old[3] = atomicMin(&cells[3], value);
  old[4] = atomicExch(&cells[4], value);
  old[5] = atomicCAS(&cells[5], T(50), value);
  old[6] = atomicCAS(&cells[6], T(51), value);
}

extern "C" __global__ void atomics_int(int* cells, int* old) {
  atomics(cells, old, 3);
  old[7] = atomicAnd(&cells[7], 6);
  old[8] = atomicOr(&cells[8], 9);
  old[9] = atomicXor(&cells[9], 255);
}
extern "C" __global__ void atomics_u64(unsigned long long* cells, unsigned long long* old) {
  atomics(cells, old, 3ull);
}
extern "C" __global__ void atomics_float(float* cells, float* old) { atomics(cells, old, 3.0f); }
extern "C" __global__ void atomics_wrap(unsigned* cells, unsigned* old) {
  for (int i = 0; i < 3; ++i) old[i] = atomicInc(&cells[0], 1u);
  for (int i = 0; i < 3; ++i) old[3 + i] = atomicDec(&cells[1], 5u);
}
extern "C" __global__ void atomics_pair(__nv_bfloat162* cell, int) {
  atomicAdd(cell, __floats2bfloat162_rn(1.0f, 2.0f));
}
