// Which accesses of a block's threads are ordered: the happens-before relation that barriers and collectives make.
//
// A barrier of the block orders everything before it with everything after it: it begins a new epoch. Within an epoch
// only lanes of one warp can be ordered, by the collectives that both take part in. For that each lane keeps a vector
// clock: how far it knows every lane of its warp to have come (Lamport 1978; Fidge and Mattern 1988; as race detectors
// use it, Flanagan and Freund, "FastTrack", 2009). Epochs count on from block to block, so that what an earlier block
// left in a shadow of shared memory is told by its number and nothing has to be cleared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

// When, and by which thread of the block, something happened.
struct Moment {
  uint32_t epoch;
  uint32_t clock;   // of the thread itself
  uint32_t thread;  // its linear number
};

class Ordering {
 public:
  static constexpr unsigned kLanes = 32, kWarps = 32;

  void begin_block(unsigned num_warps) {
    block_start_ = ++epoch_;
    memset(known_, 0, num_warps * sizeof(known_[0]));
    for (unsigned thread = 0; thread < num_warps * kLanes; ++thread) own_clock(thread) = 1;
  }

  // All threads of the block have met.
  void block_barrier() { ++epoch_; }

  // These lanes of a warp have met: each now knows what any of them knew, and goes on to a new tick of its own.
  void meet(unsigned warp, uint32_t lanes) {
    uint32_t latest[kLanes] = {};
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const uint32_t* known = known_[warp][__builtin_ctz(rest)];
      for (unsigned lane = 0; lane < kLanes; ++lane) latest[lane] = std::max(latest[lane], known[lane]);
    }
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const unsigned lane = __builtin_ctz(rest);
      memcpy(known_[warp][lane], latest, sizeof(latest));
      ++known_[warp][lane][lane];
    }
  }

  Moment now(unsigned thread) { return {epoch_, own_clock(thread), thread}; }

  bool is_of_this_block(const Moment& earlier) const { return earlier.epoch >= block_start_; }

  // Whether `earlier`, which has happened, could as well have come after what its thread does now.
  bool is_concurrent(const Moment& earlier, const Moment& now) const {
    if (earlier.epoch != epoch_ || earlier.thread == now.thread) return false;
    const unsigned warp = now.thread / kLanes;
    return warp != earlier.thread / kLanes ||
           known_[warp][now.thread % kLanes][earlier.thread % kLanes] < earlier.clock;
  }

 private:
  uint32_t& own_clock(unsigned thread) { return known_[thread / kLanes][thread % kLanes][thread % kLanes]; }

  uint32_t epoch_ = 0, block_start_ = 0;
  uint32_t known_[kWarps][kLanes][kLanes];
};
