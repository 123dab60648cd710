// Argmax: the greedy choice of the next token for each sequence.
//
// Formula:   token_ids[s] = the lowest v with logits[s][v] = max over the row; NaN counts as less than every
//            number, a row of nothing but NaN gives 0
// Pointers:  token_ids  i32 [S]      written
//            logits     f32 [S, V]   S sequences, V vocabulary (any length); rows are contiguous
// Threads:   block s owns row s. Each thread keeps the best of its groups of 4 (16 bytes); then a tree.
// Bytes:     reads 4*S*V, writes 4*S.
// Source:    the tree is Harris, "Optimizing Parallel Reduction in CUDA", NVIDIA 2007, on scores with
//            indices.
// Test:      python -m pytest tests/device -k argmax
//            python -m tools.microtest argmax
#include "argmax.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    argmax(int* __restrict__ token_ids, const float* __restrict__ logits, int vocab) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t sequence = blockIdx.x;
  const int best = block_argmax(logits + sequence * vocab, vocab, PlainScore());
  if (threadIdx.x == 0) token_ids[sequence] = best;
}
