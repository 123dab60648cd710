// What a kernel is compiled with when each of its accesses to memory is checked (nvrtc.py defines SIMT_CHECKED).
//
// The compiler puts a call before each access that it sees. It does not see into a copy that it makes a call of
// memcpy, or a few moves by itself; only copies of one machine word become an access that it sees.
#pragma once

#ifdef SIMT_CHECKED

extern "C" {
void* __tsan_memcpy(void* target, const void* source, size_t bytes);
void* __tsan_memmove(void* target, const void* source, size_t bytes);
void* __tsan_memset(void* target, int value, size_t bytes);
}

namespace simt {

[[gnu::always_inline]] inline void* checked_memcpy(void* target, const void* source, size_t bytes) {
  const bool is_word = bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8 || bytes == 16;
  if (__builtin_constant_p(bytes) && is_word) return __builtin_memcpy(target, source, bytes);
  return __tsan_memcpy(target, source, bytes);
}

}  // namespace simt

#define memcpy(target, source, bytes) simt::checked_memcpy(target, source, bytes)
#define memmove(target, source, bytes) __tsan_memmove(target, source, bytes)
#define memset(target, value, bytes) __tsan_memset(target, value, bytes)

// All that a kernel calls becomes part of it, so that an instruction's inlined callers lead to a line of the .cu.
#undef __global__
#define __global__ __attribute__((flatten))

#endif
