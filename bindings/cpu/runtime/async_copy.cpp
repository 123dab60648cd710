// cp.async: the copy happens only when it is waited for, and until then its target is NaN, so that a missing
// wait shows.
#include <cstring>

#include "worker.h"

namespace {

constexpr int kCopyBytes = 16;

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kCopyBytes == 0; }

}  // namespace

void simt_copy_async(void* target, const void* source, bool valid, simt::Place place) {
  Fiber* self = this_fiber();
  Worker& worker = worker_of(*self);
  self->place = place;
  if (worker.checks) {
    worker.checks->begin_copy(*self, target, valid ? source : nullptr, kCopyBytes,
                              __builtin_return_address(0));
  }
  if (!aligned(target) || !aligned(source)) {
    worker.fail("misaligned address", *self, place,
                "cp.async of 16 bytes needs both addresses to be multiples of 16");
  }
  memset(target, 0xff, kCopyBytes);
  AsyncCopies& copies = worker.copies_of(*self);
  copies.pending.push_back({target, valid ? source : nullptr, place, copies.groups});
}

void simt_copy_async_commit() { ++worker_of(*this_fiber()).copies_of(*this_fiber()).groups; }

void simt_copy_async_wait(int groups_left) {
  Fiber* self = this_fiber();
  Checks* checks = worker_of(*self).checks;
  AsyncCopies& copies = worker_of(*self).copies_of(*self);
  const int first_left = copies.groups - groups_left;  // the oldest group that may stay under way
  auto copy = copies.pending.begin();
  for (; copy != copies.pending.end() && copy->group < first_left; ++copy) {
    self->place = copy->place;
    if (checks) checks->finish_copy(*self, copy->target, kCopyBytes);
    if (copy->source) {
      memcpy(copy->target, copy->source, kCopyBytes);
    } else {
      memset(copy->target, 0, kCopyBytes);
    }
  }
  copies.pending.erase(copies.pending.begin(), copy);
}
