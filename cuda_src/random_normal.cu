// Normal variates: fills a tensor with random numbers of mean 0 and a given standard deviation.
//
// Formula:   out[i] = std * z(i), with z = sqrt(-2 ln u1) * (cos, sin)(2 pi u2) for neighbours i, i + 1
// Pointers:  out   bf16 [N]   written
//            std   the standard deviation; tensors of equal seed and subsequence are alike, others independent
// Random:    element i is made of Philox(key = seed, counter = (i / 4, 0, subsequence, 0)), words 2 * (i % 4 / 2)
//            and the one after: any grid gives the same values.
// Threads:   a thread makes 8 neighbours, one 16-byte store, and goes on a whole grid further.
// Bytes:     writes 2*N. The arithmetic takes longer than that: some 40 instructions a value.
// Source:    Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
// Test:      python -m pytest tests/device -k random_normal
//            python -m tools.microtest random_normal
#include "philox.cuh"
#include "ptx.cuh"

constexpr int kWords = 4;  // of one Philox call
constexpr int kValues = Packed<bf16>::kSize;

struct Normals {
  float values[kWords];
};

// u1 lies between 2^-33 and 1, so the largest variate is sqrt(66 ln 2) = 6.8. The angle comes from a signed
// word: -pi to pi is where the fast sine and cosine are good to 2^-21, far below the rounding to bf16. (The
// accurate ones would bring a stack frame with them, for angles that never come.)
__device__ inline Normals normals(const Philox4& random, float std) {
  constexpr float kPi = 3.14159265358979f;
  Normals result;
  for (int pair = 0; pair < kWords; pair += 2) {
    const float u1 = (static_cast<float>(random.words[pair]) + 0.5f) * 0x1p-32f;
    const float angle = static_cast<float>(static_cast<int>(random.words[pair + 1])) * (kPi * 0x1p-31f);
    const float radius = std * sqrtf(-2.0f * logf(u1));
    result.values[pair] = radius * __cosf(angle);
    result.values[pair + 1] = radius * __sinf(angle);
  }
  return result;
}

__device__ inline Packed<bf16> eight(uint32_t group, uint32_t subsequence, uint64_t seed, float std) {
  Packed<bf16> packed;
  for (int half = 0; half < kValues / kWords; ++half) {
    const uint32_t counter = group * (kValues / kWords) + half;
    const Normals made = normals(philox4x32_10({{counter, 0, subsequence, 0}}, seed), std);
    for (int j = 0; j < kWords; ++j) packed[half * kWords + j] = __float2bfloat16(made.values[j]);
  }
  return packed;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    random_normal(bf16* __restrict__ out, float std, uint64_t seed, uint32_t subsequence, int count) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t step = static_cast<int64_t>(gridDim.x) * BLOCK_THREADS;
  for (int64_t group = static_cast<int64_t>(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
       group * kValues < count; group += step) {
    const Packed<bf16> values = eight(static_cast<uint32_t>(group), subsequence, seed, std);
    const int64_t start = group * kValues;
    if (start + kValues <= count) {
      store16(out + start, values);
    } else {
      // Over all of them: an index that the compiler knows keeps the values in registers.
      for (int j = 0; j < kValues; ++j) {
        if (start + j < count) out[start + j] = values[j];
      }
    }
  }
}
