// The vocabulary that every kernel shares: types, constants and the 16-byte vector access.
//
// NVRTC has no standard library, the host compiler of the CPU device has no device built-ins: what is here
// compiles with both.
#pragma once

#include <cuda_bf16.h>

#ifdef __CUDACC_RTC__
using int32_t = int;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#endif

using bf16 = __nv_bfloat16;

constexpr int kWarpSize = 32;
constexpr int kMaxWarps = 32;  // a block has at most 1024 threads
constexpr uint32_t kFullWarp = 0xffffffffu;
constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000);  // NVRTC has no INFINITY

// 16 bytes of T: the widest access that one thread makes in one instruction. Device memory answers in sectors
// of 32 bytes whatever is asked, so a wide access buys fewer instructions, and more bytes in flight per
// thread.
template <typename T>
struct alignas(16) Packed {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T values[kSize];

  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

// Both need `address` to be a multiple of 16. They go through int4 because the compiler splits the copy of a
// struct of bf16 into 2-byte pieces; through memcpy because int4 may not alias T.
template <typename T>
__device__ inline Packed<T> load16(const T* address) {
  const int4 bits = *reinterpret_cast<const int4*>(address);
  Packed<T> packed;
  memcpy(&packed, &bits, sizeof(packed));
  return packed;
}

template <typename T>
__device__ inline void store16(T* address, const Packed<T>& packed) {
  int4 bits;
  memcpy(&bits, &packed, sizeof(bits));
  *reinterpret_cast<int4*>(address) = bits;
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
