// Philox4x32-10: random numbers as a pure function of a key and a counter, so that no state lives in memory
// and any thread can draw any number at any time.
//
// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. The tests hold a NumPy twin
// of this function to the known answers that the authors publish with Random123.
#pragma once

#include "common.cuh"

struct Philox4 {
  uint32_t words[4];
};

// One round: two 32x32 -> 64 bit products, whose halves are mixed with the key and change places.
__device__ inline Philox4 philox_round(const Philox4& counter, uint32_t key0, uint32_t key1) {
  const uint64_t product0 = static_cast<uint64_t>(0xd2511f53u) * counter.words[0];
  const uint64_t product1 = static_cast<uint64_t>(0xcd9e8d57u) * counter.words[2];
  return {static_cast<uint32_t>(product1 >> 32) ^ counter.words[1] ^ key0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ counter.words[3] ^ key1, static_cast<uint32_t>(product0)};
}

// Four random words for (key, counter). The key takes a step of a Weyl sequence (golden ratio, sqrt(3) - 1)
// each round.
__device__ inline Philox4 philox4x32_10(Philox4 counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    counter = philox_round(counter, key0, key1);
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return counter;
}
