// Leaves only an allowed set of tokens possible: every other logit becomes -infinity.
//
// Formula:   logits[s][v] <- -infinity where rows[s] >= 0 and bit v of masks[rows[s]] is 0
// Pointers:  logits  f32 [S, V]   read and written
//            rows    i32 [S]      which mask a sequence has; -1: none, all tokens are allowed
//            masks   u32 [K, W]   W = ceil(V / 32) words; token v is bit v % 32 of word v / 32
// Threads:   block (s, tile): a thread a token.
// Bytes:     reads S*(V/8 + 4), writes 4 bytes a token that is not allowed.
// Test:      python -m pytest tests/device -k allow_logits
//            python -m tools.microtest allow_logits
#include "common.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    allow_logits(float* __restrict__ logits, const int* __restrict__ rows, const uint32_t* __restrict__ masks,
                 int vocab, int words) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t sequence = blockIdx.x;
  const int64_t mask = rows[sequence];
  const int token = blockIdx.y * BLOCK_THREADS + threadIdx.x;
  if (mask < 0 || token >= vocab) return;
  const uint32_t word = masks[mask * words + token / 32];
  if ((word >> (token % 32) & 1) == 0) logits[sequence * vocab + token] = -kInfinity;
}
