// cp.async: the copy happens only when it is waited for, and until then its target is NaN, so that a missing wait shows.
#include <cstring>

#include "worker.h"

namespace {

constexpr int kCopyBytes = 16;

void move_bytes(Worker& worker, const AsyncCopies::Copy& copy) {
  worker.accessing = copy.place;
  memcpy(copy.target, copy.source, copy.source_bytes);
  memset(static_cast<char*>(copy.target) + copy.source_bytes, 0, kCopyBytes - copy.source_bytes);
  worker.accessing = {};
}

}  // namespace

void simt_copy_async(void* target, const void* source, int source_bytes, simt::Place place) {
  Fiber* self = this_fiber();
  Worker& worker = worker_of(*self);
  if ((reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source)) % kCopyBytes) {
    worker.fail("misaligned address", *self, place, "cp.async of 16 bytes needs both addresses to be multiples of 16");
  }
  worker.accessing = place;
  memset(target, 0xff, kCopyBytes);
  worker.accessing = {};
  AsyncCopies& copies = worker.copies_of(*self);
  copies.pending.push_back({target, source, source_bytes, copies.groups, place});
}

void simt_copy_async_commit() { ++worker_of(*this_fiber()).copies_of(*this_fiber()).groups; }

void simt_copy_async_wait(int groups_left) {
  Worker& worker = worker_of(*this_fiber());
  AsyncCopies& copies = worker.copies_of(*this_fiber());
  const int first_left = copies.groups - groups_left;  // the oldest group that may stay under way
  size_t done = 0;
  while (done < copies.pending.size() && copies.pending[done].group < first_left) {
    move_bytes(worker, copies.pending[done++]);
  }
  copies.pending.erase(copies.pending.begin(), copies.pending.begin() + static_cast<std::ptrdiff_t>(done));
}
