// The log-probability and the rank of one token of each row, and the most probable tokens beside it.
//
// Formula:   logprob(s, v) = logits[s][v] - log(sum_u exp(logits[s][u]))
//            chosen[s] = logprob(s, token_ids[s]);  ranks[s] = 1 + how many logits are larger than the chosen one's
//            top_ids[s][i], top_logprobs[s][i]: the i-th largest, ties to the lowest index
//            A token_id of -1 asks for no token: its chosen is 0 and its rank 0. NaN counts as -infinity.
// Pointers:  chosen        f32 [S]      ranks         i32 [S]
//            top_ids       i32 [S, N]   top_logprobs  f32 [S, N]
//            logits        f32 [S, V]   token_ids     i32 [S]
// Threads:   block s owns row s. The sum is an online one: each thread keeps a maximum and a sum scaled to it.
//            The top N come one at a time, each the largest key below the last one: N is small, the row in L2.
// Bytes:     reads 4*S*V, writes 8*S*(N + 1).
// Source:    online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867.
// Test:      python -m pytest tests/device -k logprobs
//            python -m tools.microtest logprobs
#include "argmax.cuh"
#include "ptx.cuh"

struct MaxAndSum {
  float max;
  float sum;  // of exp(x - max)
};

// Two parts of a row as one. A part that holds nothing has a maximum of -infinity and a sum of 0.
__device__ inline MaxAndSum merge(const MaxAndSum& a, const MaxAndSum& b) {
  const float top = fmaxf(a.max, b.max);
  if (top == -kInfinity) return {top, 0.0f};
  return {top, a.sum * expf(a.max - top) + b.sum * expf(b.max - top)};
}

__device__ inline float log_sum_exp(const float* row, int vocab, float* maxima, float* sums) {
  MaxAndSum own = {-kInfinity, 0.0f};
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) {
    if (row[v] > -kInfinity) own = merge(own, {row[v], 1.0f});
  }
  const float top = block_max(own.max, maxima);
  const float scale = own.max == -kInfinity ? 0.0f : expf(own.max - top);
  return top + logf(block_sum(own.sum * scale, sums));
}

__device__ inline uint64_t next_key(const float* row, int vocab, uint64_t below, uint64_t* scratch) {
  uint64_t best = 0;
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) {
    const float x = row[v] == row[v] ? row[v] : -kInfinity;
    const uint64_t key = argmax_key(x, v);
    if (key < below && key > best) best = key;
  }
  return block_reduce(best, uint64_t{0}, scratch, MaxKey());
}

__device__ inline float larger_than(const float* row, int vocab, float value, float* scratch) {
  int count = 0;
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) count += row[v] > value;
  return block_sum(static_cast<float>(count), scratch);  // exact: a vocabulary has fewer than 2^24 tokens
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    logprobs(float* __restrict__ chosen, int* __restrict__ ranks, int* __restrict__ top_ids,
             float* __restrict__ top_logprobs, const float* __restrict__ logits,
             const int* __restrict__ token_ids, int vocab, int num_top) {
  grid_dependency_launch();
  grid_dependency_wait();
  __shared__ float scratch[3][kMaxWarps];
  __shared__ uint64_t keys[2][kMaxWarps];
  const int64_t sequence = blockIdx.x;
  const float* row = logits + sequence * vocab;
  const int token = token_ids[sequence];
  const float total = log_sum_exp(row, vocab, scratch[0], scratch[1]);
  const float larger = larger_than(row, vocab, token < 0 ? kInfinity : row[token], scratch[2]);
  if (threadIdx.x == 0) {
    chosen[sequence] = token < 0 ? 0.0f : row[token] - total;
    ranks[sequence] = token < 0 ? 0 : static_cast<int>(larger) + 1;
  }
  uint64_t last = ~uint64_t{0};
  for (int i = 0; i < num_top; ++i) {
    last = next_key(row, vocab, last, keys[i % 2]);  // a scratch of its own, so that no barrier is needed
    const int index = static_cast<int>(~static_cast<uint32_t>(last));
    if (threadIdx.x == 0) {
      top_ids[sequence * num_top + i] = index;
      top_logprobs[sequence * num_top + i] = row[index] - total;
    }
  }
}
