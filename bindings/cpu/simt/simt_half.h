// Arithmetic on bf16 and fp16 that NVIDIA's headers keep for device code.
#pragma once

namespace simt {

// x * y + z rounded to odd: an inexact result ends in a 1 bit, so that rounding it again, to fewer bits, does what
// rounding once would have done (Boldo and Melquiond 2008). The product of two halves is exact in double.
inline double fma_to_odd(double x, double y, double z) {
  const double product = x * y;
  const double sum = product + z;
  const double z_part = sum - product;
  const double error = (product - (sum - z_part)) + (z - z_part);  // exact: Knuth's TwoSum
  const uint64_t bits = __builtin_bit_cast(uint64_t, sum);
  if (!(error < 0.0 || error > 0.0) || bits & 1) return sum;
  const bool away_from_zero = (error > 0.0) == (sum > 0.0);
  return __builtin_bit_cast(double, away_from_zero ? bits + 1 : bits - 1);
}

}  // namespace simt

inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __double2bfloat16(simt::fma_to_odd(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(simt::fma_to_odd(__half2float(a), __half2float(b), __half2float(c)));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __halves2bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

inline __nv_bfloat16 hexp(__nv_bfloat16 x) { return __float2bfloat16(expf(__bfloat162float(x))); }
inline __half hexp(__half x) { return __float2half(expf(__half2float(x))); }
inline __nv_bfloat16 hlog(__nv_bfloat16 x) { return __float2bfloat16(logf(__bfloat162float(x))); }
inline __half hlog(__half x) { return __float2half(logf(__half2float(x))); }
inline __nv_bfloat16 hsqrt(__nv_bfloat16 x) { return __float2bfloat16(sqrtf(__bfloat162float(x))); }
inline __half hsqrt(__half x) { return __float2half(sqrtf(__half2float(x))); }
inline __nv_bfloat16 hrsqrt(__nv_bfloat16 x) { return __float2bfloat16(1.0f / sqrtf(__bfloat162float(x))); }
inline __half hrsqrt(__half x) { return __float2half(1.0f / sqrtf(__half2float(x))); }
