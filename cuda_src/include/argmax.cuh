// Argmax of a row of float32 scores by one block, shared by argmax.cu and gumbel_sample.cu.
//
// Ties go to the lowest index. NaN loses against every number, -infinity too; a row of only NaN gives 0.
#pragma once

#include "common.cuh"
#include "reduce.cuh"

constexpr int kGroup = 4;  // neighbouring scores that a thread takes at a time: 16 bytes

// A score and its index as one integer whose order is "higher score, then lower index", so that the whole
// tree needs one 64-bit maximum a step. The bits of a float, read as an integer, already order the positive
// ones; negative ones need all bits flipped. Adding 0 makes -0 the equal of +0.
__device__ inline uint64_t argmax_key(float score, int index) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(index);
}

struct MaxKey {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// Scores 4*group .. 4*group+3 of the row; those past its end are NaN, which never wins. Where the length is
// no multiple of 4, every second row or so begins off a 16-byte boundary: then one by one.
template <bool kAligned>
__device__ inline Packed<float> load_group(const float* row, int length, int group) {
  const int start = group * kGroup;
  if constexpr (kAligned) {
    return load16(row + start);
  } else {
    Packed<float> values;
    for (int j = 0; j < kGroup; ++j) {
      values[j] = start + j < length ? row[start + j] : __uint_as_float(0x7fc00000u);
    }
    return values;
  }
}

// The best of this thread's groups as a key, 0 if there is nothing but NaN. From the last group to the first,
// so that >= leaves a tie with the lowest index; >= and not > because a row of -infinity must have a winner
// too.
template <bool kAligned, typename Score>
__device__ inline uint64_t thread_argmax(const float* row, int length, Score score) {
  float best = -kInfinity;
  int best_index = -1;
  const int groups = ceil_div(length, kGroup);
  const int last = groups - 1 - static_cast<int>(threadIdx.x);
#pragma unroll Score::kUnroll
  for (int group = last; group >= 0; group -= blockDim.x) {
    const Packed<float> scores = score(load_group<kAligned>(row, length, group), group);
    for (int j = kGroup - 1; j >= 0; --j) {
      if (scores[j] >= best) {
        best = scores[j];
        best_index = group * kGroup + j;
      }
    }
  }
  return best_index < 0 ? 0 : argmax_key(best, best_index);
}

// Index of the largest score in the row; every thread of the block must call it and gets the result.
// `score(values, group)` turns four neighbouring values of the row into their scores; Score::kUnroll is how
// many groups a thread has under way at once (loads in flight against registers).
template <typename Score>
__device__ inline int block_argmax(const float* row, int length, Score score) {
  __shared__ uint64_t scratch[kMaxWarps];
  const uint64_t key = length % kGroup == 0 ? thread_argmax<true>(row, length, score)
                                            : thread_argmax<false>(row, length, score);
  const uint64_t best = block_reduce(key, uint64_t{0}, scratch, MaxKey());
  return best == 0 ? 0 : static_cast<int>(~static_cast<uint32_t>(best));
}

struct PlainScore {
  static constexpr int kUnroll = 4;

  __device__ Packed<float> operator()(const Packed<float>& values, int) const { return values; }
};
