// Feed tokens: puts the tokens that the step before chose where this step reads its input.
//
// Formula:   token_ids[t] = chosen[-1 - token_ids[t]] where token_ids[t] < 0; the others stay
// Pointers:  token_ids  i32 [T]   read and written; -1 - r stands for what the step before chose in its row r
//            chosen     i32 [C]
//            T tokens of this step, C rows of the sampler's output.
// Threads:   thread t of the grid has token t.
// Bytes:     reads 4*T + 4*T at most, writes 4*T at most.
// Source:    asynchronous scheduling, as in vLLM and SGLang: the host plans a step before it has read the tokens
//            of the one before, which therefore never leave the device on their way.
// Test:      python -m pytest tests/device -k feed_tokens
//            python -m tools.microtest feed_tokens
#include "common.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    feed_tokens(int* __restrict__ token_ids, const int* __restrict__ chosen, int tokens) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int token = blockIdx.x * BLOCK_THREADS + threadIdx.x;
  if (token >= tokens) return;
  const int given = token_ids[token];
  if (given < 0) token_ids[token] = chosen[-1 - given];
}
