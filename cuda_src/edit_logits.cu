// Edits single logits before a token is drawn: penalties, bias and bans, as a sparse list for each sequence.
//
// Formula:   for each edit e of sequence s, x = logits[s][tokens[e]] + biases[e]:
//              logits[s][tokens[e]] <- (x > 0 ? x / divisors[e] : x * divisors[e]) - penalties[e]
//            The divisor is the repetition penalty, the last term those of presence and frequency; a bias of
//            -infinity bans the token. A sequence names a token once, so its edits need no order.
// Pointers:  logits    f32 [S, V]   read and written
//            starts    i32 [S+1]    sequence s has edits starts[s] .. starts[s+1]
//            tokens    i32 [E]      biases, divisors, penalties  f32 [E]      E may be larger than starts[S]
// Threads:   block s has the edits of sequence s: a thread takes every BLOCK_THREADS-th.
// Bytes:     reads 20*E + 4*S, writes 4*E.
// Source:    repetition penalty: Keskar et al. 2019, arXiv:1909.05858 (CTRL).
// Test:      python -m pytest tests/device -k edit_logits
//            python -m tools.microtest edit_logits
#include "common.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    edit_logits(float* __restrict__ logits, const int* __restrict__ starts, const int* __restrict__ tokens,
                const float* __restrict__ biases, const float* __restrict__ divisors,
                const float* __restrict__ penalties, int vocab) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t sequence = blockIdx.x;
  float* row = logits + sequence * vocab;
  for (int e = starts[sequence] + static_cast<int>(threadIdx.x); e < starts[sequence + 1];
       e += BLOCK_THREADS) {
    const float x = row[tokens[e]] + biases[e];
    row[tokens[e]] = (x > 0.0f ? x / divisors[e] : x * divisors[e]) - penalties[e];
  }
}
