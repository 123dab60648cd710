// Mathematics that CUDA has and <cmath> lacks.
//
// The "fast" functions are the accurate ones here: a kernel is right when it is right within the GPU's larger error too.
#pragma once

namespace simt {

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float exp2(float x) { return exp2f(x); }
inline float exp(float x) { return expf(x); }
inline float log(float x) { return logf(x); }
inline float log2(float x) { return log2f(x); }
inline float log10(float x) { return log10f(x); }
inline float pow(float x, float y) { return powf(x, y); }
inline float sin(float x) { return sinf(x); }
inline float cos(float x) { return cosf(x); }
inline float tan(float x) { return tanf(x); }
inline float exp10(float x) { return powf(10.0f, x); }

}  // namespace simt

// Macros, because <math.h> declares functions of its own under some of these names.
#define rsqrtf(x) simt::rsqrtf(x)
#define __expf(x) simt::exp(x)
#define __exp10f(x) simt::exp10(x)
#define __logf(x) simt::log(x)
#define __log2f(x) simt::log2(x)
#define __log10f(x) simt::log10(x)
#define __powf(x, y) simt::pow(x, y)
#define __sinf(x) simt::sin(x)
#define __cosf(x) simt::cos(x)
#define __tanf(x) simt::tan(x)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

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
  constexpr Integer kLowest = static_cast<Integer>(Integer(-1) < Integer(0) ? Integer(1) << (8 * sizeof(Integer) - 1) : 0);
  constexpr Integer kHighest = static_cast<Integer>(~kLowest);
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

// CUDA's global min and max: integers compare in their common type, floats drop a NaN when the other is a number.
template <typename A, typename B>
inline auto simt_min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
inline auto simt_max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
inline auto min(A a, B b) { return simt_min(a, b); }
template <typename A, typename B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
inline auto max(A a, B b) { return simt_max(a, b); }
