// Gumbel sampling: draws each sequence's next token from softmax(logits / temperature), reading the row once.
//
// Formula:   token_ids[s] = argmax_v(logits[s][v] / temperature[s] + g(s, v)),  g = -log(-log(1 - u)), u
//            uniform in (0, 1). The argmax has softmax's distribution: no maximum, no sum, no prefix sum is
//            needed. Where the temperature is 0 the row is greedy: plain argmax. Ties and NaN as in
//            argmax.cu.
// Random:    u of (s, v) is word v % 4 of Philox4x32-10 with key seeds[s] and counter (v / 4, positions[s],
//            0, 0): it depends on the request and its position alone, not on the batch around it.
// Pointers:  token_ids    i32 [S]      written
//            logits       f32 [S, V]   S sequences, V vocabulary (any length); rows are contiguous
//            temperature  f32 [S]      0 or positive
//            seeds        u64 [S]
//            positions    i32 [S]      position of the token to be drawn
// Threads:   block s owns row s. A thread scores 4 logits with the 4 words of one Philox call; then a tree.
// Bytes:     reads 4*S*V + 16*S, writes 4*S.
// Source:    Maddison, Tarlow, Minka, "A* Sampling", 2014, arXiv:1411.0030 (the Gumbel-max trick).
// Test:      python -m pytest tests/device -k gumbel_sample
//            python -m tools.microtest gumbel_sample
#include "argmax.cuh"
#include "philox.cuh"
#include "ptx.cuh"

// -log(1 - u), an exponential variate, to a relative 2^-19. Where u is small, and 1 - u would lose its digits,
// by the series u + u^2/2 + u^3/3 + ...: what is left out after nine terms is below u^10/10 / (1 - u), 2^-20 of
// the result at u = 1/4. Beyond, __logf is off by 2^-21.4, and the result is 0.28 or more.
__device__ inline float exponential(float u) {
  float series = 1.0f / 9;
#pragma unroll
  for (int k = 8; k > 0; --k) series = fmaf(series, u, 1.0f / k);
  return u < 0.25f ? u * series : -__logf(1.0f - u);
}

// 32 random bits to a Gumbel variate. The winner comes from the upper tail, that is from small u, so small u
// is what must be finely resolved: u runs from 2^-33 with a float's full precision. 1 - 2^-24 is the largest
// float below 1; u = 1 would give an infinity. The fast logarithms save two instructions in five. They move a
// variate by some 2^-17 at most, and so a token's probability by less than a hundred-thousandth of itself:
// about what the rounding of logit / temperature does to it.
__device__ inline float gumbel(uint32_t bits) {
  constexpr float kBelowOne = 1.0f - 0x1p-24f;
  const float u = (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
  return -__logf(exponential(u < kBelowOne ? u : kBelowOne));
}

struct NoisyScore {
  static constexpr int kUnroll = 1;  // many instructions a group: the other warps hide the load

  float inverse_temperature;
  uint64_t seed;
  uint32_t position;

  __device__ Packed<float> operator()(const Packed<float>& logits, int group) const {
    const Philox4 random = philox4x32_10({{static_cast<uint32_t>(group), position, 0, 0}}, seed);
    Packed<float> scores;
    for (int j = 0; j < kGroup; ++j)
      scores[j] = fmaf(logits[j], inverse_temperature, gumbel(random.words[j]));
    return scores;
  }
};

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    gumbel_sample(int* __restrict__ token_ids, const float* __restrict__ logits,
                  const float* __restrict__ temperature, const uint64_t* __restrict__ seeds,
                  const int* __restrict__ positions, int vocab) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t sequence = blockIdx.x;
  const float* row = logits + sequence * vocab;
  int best;
  if (temperature[sequence] == 0.0f) {
    best = block_argmax(row, vocab, PlainScore());
  } else {
    const uint32_t position = static_cast<uint32_t>(positions[sequence]);
    best = block_argmax(row, vocab, NoisyScore{1.0f / temperature[sequence], seeds[sequence], position});
  }
  if (threadIdx.x == 0) token_ids[sequence] = best;
}
