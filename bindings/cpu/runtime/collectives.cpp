// Warp collectives on integers and bit patterns: shuffle, vote, match, reduce.
#include <algorithm>

#include "turns.h"

namespace {

template <typename Function>
void for_each_lane(uint32_t lanes, Function function) {
  for (; lanes; lanes &= lanes - 1) function(static_cast<unsigned>(__builtin_ctz(lanes)));
}

template <typename Request>
Request& request_of(void* const* requests, unsigned lane) {
  return *static_cast<Request*>(requests[lane]);
}

const Collective kBarrier = {"__syncwarp", false, [](Worker&, void* const*, uint32_t) {}};

struct Shuffle {
  Fiber* fiber;
  simt::Place place;
  uint64_t value, result;
  unsigned source;
};

[[noreturn]] void fail_shuffle(Worker& worker, const Shuffle& request, uint32_t lanes) {
  char text[160];
  write_text(text, sizeof(text),
             "lane %u reads lane %u, which takes no part in the shuffle (lanes 0x%08x do)",
             request.fiber->lane, request.source, lanes);
  worker.fail("shuffle from absent lane", *request.fiber, request.place, text);
}

void compute_shuffle(Worker& worker, void* const* requests, uint32_t lanes) {
  for_each_lane(lanes, [&](unsigned lane) {
    Shuffle& request = request_of<Shuffle>(requests, lane);
    if (!(lanes >> request.source & 1)) fail_shuffle(worker, request, lanes);
    request.result = request_of<Shuffle>(requests, request.source).value;
  });
}

const Collective kShuffle = {"__shfl_sync", true, compute_shuffle};

struct Vote {
  uint64_t value;
  uint32_t result;
};

void compute_ballot(Worker&, void* const* requests, uint32_t lanes) {
  uint32_t ballot = 0;
  for_each_lane(lanes, [&](unsigned lane) {
    if (request_of<Vote>(requests, lane).value) ballot |= 1u << lane;
  });
  for_each_lane(lanes, [&](unsigned lane) { request_of<Vote>(requests, lane).result = ballot; });
}

const Collective kBallot = {"__ballot_sync", true, compute_ballot};

void compute_match(Worker&, void* const* requests, uint32_t lanes) {
  for_each_lane(lanes, [&](unsigned lane) {
    Vote& request = request_of<Vote>(requests, lane);
    request.result = 0;
    for_each_lane(lanes, [&](unsigned other) {
      if (request_of<Vote>(requests, other).value == request.value) request.result |= 1u << other;
    });
  });
}

const Collective kMatch = {"__match_any_sync", true, compute_match};

template <typename T>
struct Reduction {
  simt::ReduceOp op;
  T value;  // and then the result
};

template <typename T>
T combine(simt::ReduceOp op, T a, T b) {
  switch (op) {
    case simt::ReduceOp::add:
      return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
    case simt::ReduceOp::min:
      return std::min(a, b);
    case simt::ReduceOp::max:
      return std::max(a, b);
    case simt::ReduceOp::bit_and:
      return a & b;
    case simt::ReduceOp::bit_or:
      return a | b;
    case simt::ReduceOp::bit_xor:
      return a ^ b;
  }
  __builtin_unreachable();
}

template <typename T>
void compute_reduction(Worker&, void* const* requests, uint32_t lanes) {
  const unsigned first = __builtin_ctz(lanes);
  const simt::ReduceOp op = request_of<Reduction<T>>(requests, first).op;
  T result = request_of<Reduction<T>>(requests, first).value;
  for_each_lane(lanes & (lanes - 1), [&](unsigned lane) {
    result = combine(op, result, request_of<Reduction<T>>(requests, lane).value);
  });
  for_each_lane(lanes, [&](unsigned lane) { request_of<Reduction<T>>(requests, lane).value = result; });
}

const Collective kReduceUnsigned = {"__reduce_sync", true, compute_reduction<uint32_t>};
const Collective kReduceSigned = {"__reduce_sync", true, compute_reduction<int32_t>};

inline void meet(uint32_t mask, const Collective& collective, void* request, simt::Place place) {
  Fiber* self = this_fiber();
  worker_of(*self).meet(self, mask, collective, request, place);
}

uint32_t vote(uint32_t mask, const Collective& collective, uint64_t value, simt::Place place) {
  Vote request = {value, 0};
  meet(mask, collective, &request, place);
  return request.result;
}

template <typename T>
T reduce(uint32_t mask, const Collective& collective, T value, simt::ReduceOp op, simt::Place place) {
  Reduction<T> request = {op, value};
  meet(mask, collective, &request, place);
  return request.value;
}

}  // namespace

void simt_warp_barrier(uint32_t mask, simt::Place place) { meet(mask, kBarrier, nullptr, place); }

uint64_t simt_shuffle(uint32_t mask, uint64_t bits, unsigned source, simt::Place place) {
  Shuffle request = {this_fiber(), place, bits, 0, source};
  meet(mask, kShuffle, &request, place);
  return request.result;
}

uint32_t simt_ballot(uint32_t mask, bool predicate, simt::Place place) {
  return vote(mask, kBallot, predicate, place);
}

uint32_t simt_match_any(uint32_t mask, uint64_t bits, simt::Place place) {
  return vote(mask, kMatch, bits, place);
}

uint32_t simt_reduce_unsigned(uint32_t mask, uint32_t value, simt::ReduceOp op, simt::Place place) {
  return reduce(mask, kReduceUnsigned, value, op, place);
}

int32_t simt_reduce_signed(uint32_t mask, int32_t value, simt::ReduceOp op, simt::Place place) {
  return reduce(mask, kReduceSigned, value, op, place);
}

// The lanes that a GPU would most likely run together: all that have not ended.
uint32_t simt_active_mask() { return this_fiber()->warp->live; }

int simt_block_barrier(bool predicate, simt::Place place) {
  Fiber* self = this_fiber();
  return worker_of(*self).block_barrier(self, predicate, place);
}

void simt_yield() { worker_of(*this_fiber()).give_way(this_fiber()); }

void simt_fail(const char* kind, const char* text, simt::Place place) {
  worker_of(*this_fiber()).fail(kind, *this_fiber(), place, text);
}
