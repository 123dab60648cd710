// Barriers, fences, time, and ways to stop.
#pragma once

#include <time.h>

inline void __syncthreads(simt::Place place = simt::Place::here()) { simt_block_barrier(false, place); }

inline int __syncthreads_count(int predicate, simt::Place place = simt::Place::here()) {
  return simt_block_barrier(predicate != 0, place);
}

inline int __syncthreads_or(int predicate, simt::Place place = simt::Place::here()) {
  return simt_block_barrier(predicate != 0, place) != 0;
}

inline int __syncthreads_and(int predicate, simt::Place place = simt::Place::here()) {
  return simt_block_barrier(predicate == 0, place) == 0;  // nobody disagrees
}

inline void __syncwarp(unsigned mask = 0xffffffffu, simt::Place place = simt::Place::here()) {
  simt_warp_barrier(mask, place);
}

// Blocks run on several OS threads, so fences between them are real.
inline void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// A thread that polls must give way, or the fiber that it waits for never runs.
inline void __nanosleep(unsigned) { simt_yield(); }

// Nanoseconds stand in for clock cycles.
inline long long clock64() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

[[noreturn]] inline void __trap(simt::Place place = simt::Place::here()) {
  simt_fail("trap", "the kernel called __trap()", place);
}

#undef assert
#define assert(condition) \
  ((condition) ? void() : simt_fail("assertion failed", "assertion failed: " #condition, simt::Place::here()))
