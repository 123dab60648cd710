// Warp collectives: shuffles, votes, matches and reductions over the lanes named in `mask`.
//
// A lane that calls without being in its own mask, or reads a lane that does not take part, ends the launch
// with a report; on a GPU the result is undefined.
#pragma once

#include <type_traits>

namespace simt {

template <typename T>
inline uint64_t to_bits(const T& value) {
  static_assert(sizeof(T) <= 8, "a collective takes values of up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
inline T from_bits(uint64_t bits) {
  T value;
  memcpy(static_cast<void*>(&value), &bits, sizeof(T));  // void*: __half2 and its kin have copy constructors
  return value;
}

template <typename T>
inline T shuffle(unsigned mask, T value, unsigned source, Place place) {
  return from_bits<T>(simt_shuffle(mask, to_bits(value), source, place));
}

// First lane of the segment of `width` lanes, a power of two, that this lane belongs to.
inline int segment_start(int width) { return static_cast<int>(simt_thread->lane) & ~(width - 1); }

}  // namespace simt

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     simt::Place place = simt::Place::here()) {
  return simt::shuffle(mask, value, simt::segment_start(width) + (source & (width - 1)), place);
}

// A source outside the segment means the lane's own value, in the three that follow.
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        simt::Place place = simt::Place::here()) {
  const int lane = simt_thread->lane;
  const int source = lane - static_cast<int>(delta);
  return simt::shuffle(mask, value, source < simt::segment_start(width) ? lane : source, place);
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          simt::Place place = simt::Place::here()) {
  const int lane = simt_thread->lane;
  const int source = lane + static_cast<int>(delta);
  return simt::shuffle(mask, value, source >= simt::segment_start(width) + width ? lane : source, place);
}

// Here a lane may read an earlier segment, but not a later one.
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                         simt::Place place = simt::Place::here()) {
  const int lane = simt_thread->lane;
  const int source = lane ^ lane_mask;
  return simt::shuffle(mask, value, source >= simt::segment_start(width) + width ? lane : source, place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Place place = simt::Place::here()) {
  return simt_ballot(mask, predicate != 0, place);
}

inline int __any_sync(unsigned mask, int predicate, simt::Place place = simt::Place::here()) {
  return simt_ballot(mask, predicate != 0, place) != 0;
}

inline int __all_sync(unsigned mask, int predicate, simt::Place place = simt::Place::here()) {
  return simt_ballot(mask, predicate == 0, place) == 0;
}

template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, simt::Place place = simt::Place::here()) {
  return simt_match_any(mask, simt::to_bits(value), place);
}

inline unsigned __activemask() { return simt_active_mask(); }

inline unsigned __reduce_add_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::add, place);
}
inline int __reduce_add_sync(unsigned mask, int value, simt::Place place = simt::Place::here()) {
  return simt_reduce_signed(mask, value, simt::ReduceOp::add, place);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::min, place);
}
inline int __reduce_min_sync(unsigned mask, int value, simt::Place place = simt::Place::here()) {
  return simt_reduce_signed(mask, value, simt::ReduceOp::min, place);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::max, place);
}
inline int __reduce_max_sync(unsigned mask, int value, simt::Place place = simt::Place::here()) {
  return simt_reduce_signed(mask, value, simt::ReduceOp::max, place);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::bit_and, place);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::bit_or, place);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::here()) {
  return simt_reduce_unsigned(mask, value, simt::ReduceOp::bit_xor, place);
}
