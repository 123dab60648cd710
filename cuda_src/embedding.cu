// Embedding: looks up one row of the table for each token.
//
// Formula:   out[t][h] = table[token_ids[t]][h]
// Pointers:  out        bf16 [T, H]   written
//            token_ids  i32  [T]      each in 0 .. V-1 (not checked here)
//            table      bf16 [V, H]
//            T tokens, H hidden size (a multiple of 8), V vocabulary; rows are contiguous.
// Threads:   block t copies row t, 16 bytes a thread and turn.
// Bytes:     reads 2*T*H + 4*T, writes 2*T*H.
// Source:    Bengio et al., "A Neural Probabilistic Language Model", JMLR 2003 (the shared lookup table).
// Test:      python -m pytest tests/device -k embedding
//            python -m tools.microtest embedding
#include "common.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    embedding(bf16* __restrict__ out, const int* __restrict__ token_ids, const bf16* __restrict__ table,
              int hidden) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t token = blockIdx.x;
  const bf16* source = table + static_cast<int64_t>(token_ids[token]) * hidden;
  bf16* destination = out + token * hidden;
  for (int i = threadIdx.x * 8; i < hidden; i += BLOCK_THREADS * 8) {
    store16(destination + i, load16(source + i));
  }
}
