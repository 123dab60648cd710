// What a compiled kernel and the runtime library know of each other: the whole interface between the two.
//
// Kernels are compiled again and again, the runtime once; so whatever does not depend on a kernel's types
// sits behind these functions. A warp collective takes part in one rendezvous: the lane that arrives last
// computes for the whole warp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

struct Index3 {
  unsigned x, y, z;
};

// A line of the .cu, for reports. As a default argument it is the place of the call that it is the default
// of.
struct Place {
  const char* file;
  int line;

  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// The block that an OS thread runs at the moment.
struct Block {
  Index3 index;
  Index3 dim;
  Index3 grid;
  unsigned char* dynamic_shared;
};

// The CUDA thread that runs at the moment.
struct Thread {
  Index3 index;
  unsigned lane;
  const Block* block;
};

enum class ReduceOp { add, min, max, bit_and, bit_or, bit_xor };

}  // namespace simt

#pragma GCC visibility push(default)  // kernels and the runtime are separate libraries
extern "C" {

// Null outside a kernel. `initial-exec` makes reading it one instruction; it is the only such variable.
extern __thread simt::Thread* simt_thread __attribute__((tls_model("initial-exec")));

// Waits for all live threads of the block; returns in how many of them `predicate` was true.
int simt_block_barrier(bool predicate, simt::Place place);
void simt_yield();

// Warp collectives. `bits` is a value of up to 8 bytes; `source` a lane of the warp, 0..31.
void simt_warp_barrier(uint32_t mask, simt::Place place);
uint64_t simt_shuffle(uint32_t mask, uint64_t bits, unsigned source, simt::Place place);
uint32_t simt_ballot(uint32_t mask, bool predicate, simt::Place place);
uint32_t simt_match_any(uint32_t mask, uint64_t bits, simt::Place place);
uint32_t simt_reduce_unsigned(uint32_t mask, uint32_t value, simt::ReduceOp op, simt::Place place);
int32_t simt_reduce_signed(uint32_t mask, int32_t value, simt::ReduceOp op, simt::Place place);
uint32_t simt_active_mask();

// `count` is 1, 2 or 4 matrices of 8 x 8 16-bit elements.
void simt_ldmatrix(uint32_t* fragments, const void* row, int count, bool transposed, simt::Place place);
void simt_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c,
                            simt::Place place);

// Begins a copy of 16 bytes; of zeros if not `valid`.
void simt_copy_async(void* target, const void* source, bool valid, simt::Place place);
void simt_copy_async_commit();
void simt_copy_async_wait(int groups_left);

// Ends the launch with a report. `kind` is a short phrase such as "assertion failed".
[[noreturn]] void simt_fail(const char* kind, const char* text, simt::Place place);

}  // extern "C"
#pragma GCC visibility pop
