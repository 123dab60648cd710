// Mathematics that CUDA has and <cmath> lacks.
//
// The "fast" functions are the accurate ones here: a kernel is right when it is right within the GPU's larger
// error too.
#pragma once

#include <limits>
#include <type_traits>

namespace simt {

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// `x == x` is false for a NaN, which loses against any number.
template <typename T>
inline T lesser(T a, T b) {
  return b == b ? (a < b ? a : b) : a;
}
template <typename T>
inline T greater(T a, T b) {
  return b == b ? (a > b ? a : b) : a;
}

}  // namespace simt

// Macros, because <math.h> declares functions of its own under these names. The library's fminf and fmaxf are
// calls, which cost more than all else in a loop that looks for a maximum.
#define fminf(x, y) simt::lesser<float>(x, y)
#define fmaxf(x, y) simt::greater<float>(x, y)
#define rsqrtf(x) simt::rsqrtf(x)
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __sincosf sincosf

inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN gives 0
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }

// Conversions to an integer clamp at its range, and NaN gives 0, as on a GPU (and unlike a C++ cast).
namespace simt {
template <typename Integer>
inline Integer saturated(double value) {
  constexpr Integer kLowest = std::numeric_limits<Integer>::min();
  constexpr Integer kHighest = std::numeric_limits<Integer>::max();
  if (value != value) return 0;
  if (value <= static_cast<double>(kLowest)) return kLowest;
  return value >= static_cast<double>(kHighest) ? kHighest : static_cast<Integer>(value);
}
}  // namespace simt

inline int __float2int_rn(float x) { return simt::saturated<int>(rintf(x)); }
inline int __float2int_rz(float x) { return simt::saturated<int>(truncf(x)); }
inline int __float2int_rd(float x) { return simt::saturated<int>(floorf(x)); }
inline int __float2int_ru(float x) { return simt::saturated<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return simt::saturated<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return simt::saturated<unsigned>(truncf(x)); }
inline unsigned __float2uint_rd(float x) { return simt::saturated<unsigned>(floorf(x)); }
inline unsigned __float2uint_ru(float x) { return simt::saturated<unsigned>(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

// CUDA's global min and max. Integers compare in their common type, floats drop a NaN as fminf does.
template <typename A, typename B,
          typename = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline auto min(A a, B b) {
  return simt::lesser<std::common_type_t<A, B>>(a, b);
}
template <typename A, typename B,
          typename = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline auto max(A a, B b) {
  return simt::greater<std::common_type_t<A, B>>(a, b);
}
