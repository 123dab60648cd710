// The order in which the threads of a block take turns. A correct kernel computes the same bits in every
// order; each order brings other missing barriers to light.
#pragma once

#include <cstdint>

enum class Order : int {
  ascending,   // warps and lanes in order; a warp goes on until it waits for the whole block
  descending,  // the same backwards
  shuffled,    // at every switch any thread that can run, at random
  greedy,      // one warp as far as it goes, its lanes at random, then another warp at random
};

struct Schedule {
  Order order = Order::ascending;
  uint64_t seed = 0;
};

// splitmix64: every seed, 0 too, starts a good sequence.
struct Random {
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }

  unsigned below(unsigned n) { return static_cast<unsigned>((next() >> 32) * n >> 32); }
};

// Deals turns to the members (bits) of a set. Those still to come in this round go first.
struct Turns {
  uint32_t to_come = ~0u;

  void restart() { to_come = ~0u; }

  // One of `candidates`, of which there is at least one.
  unsigned pick(uint32_t candidates, Order order, Random& random) {
    if (order == Order::ascending) {
      const uint32_t rest = candidates & to_come;
      const unsigned chosen = __builtin_ctz(rest ? rest : candidates);
      to_come = ~1u << chosen;
      return chosen;
    }
    if (order == Order::descending) {
      const uint32_t rest = candidates & to_come;
      const unsigned chosen = 31 - __builtin_clz(rest ? rest : candidates);
      to_come = (1u << chosen) - 1;
      return chosen;
    }
    for (unsigned skip = random.below(__builtin_popcount(candidates)); skip > 0; --skip)
      candidates &= candidates - 1;
    return __builtin_ctz(candidates);
  }
};
