// What happened to each byte of a block's shared memory: who wrote it last, and who has read it since.
//
// Two readers are remembered, of different warps if there were any: whoever overwrites the byte then meets at least
// one that is not of its own warp. A write by two threads without a barrier between is not reported, as kernels may
// have all threads store the same value; a third thread that reads it is.
#pragma once

#include <vector>

#include "ordering.h"

// One bit each for what it does, and one for a cp.async that was not waited for.
enum class AccessKind : uint32_t {
  read = 1,
  write = 2,
  atomic_read = 4 | read,
  atomic_write = 4 | write,
  atomic = 4 | read | write,
  copy_under_way = 8 | write,
};

inline bool has(AccessKind kind, uint32_t bit) { return static_cast<uint32_t>(kind) & bit; }
inline bool reads(AccessKind kind) { return has(kind, 1); }
inline bool writes(AccessKind kind) { return has(kind, 2); }
inline bool is_atomic(AccessKind kind) { return has(kind, 4); }

struct Access : Moment {
  AccessKind kind;
  uint64_t program_counter;
};

// What is wrong with an access, and the earlier one that it collides with, if any.
struct Finding {
  enum Kind { none, unwritten, copy_not_waited_for, race } kind;
  const Access* other;
};

class SharedShadow {
 public:
  // Which addresses are shared memory in the blocks to come.
  void cover(uintptr_t start, size_t bytes) {
    start_ = start;
    bytes_ = bytes;
    if (cells_.size() < bytes) cells_.resize(bytes);
  }

  bool contains(uintptr_t address, size_t bytes) const {
    return address - start_ < bytes_ && bytes <= bytes_ - (address - start_);
  }
  uintptr_t start() const { return start_; }
  uintptr_t end() const { return start_ + bytes_; }

  // Looks at what came before and remembers the access. `index` is set to the offset of the first byte at fault.
  Finding visit(uintptr_t address, size_t bytes, const Access& access, const Ordering& ordering,
                size_t* index) {
    for (*index = address - start_; *index < address - start_ + bytes; ++*index) {
      const Finding found = visit(cells_[*index], access, ordering);
      if (found.kind != Finding::none) return found;
    }
    return {};
  }

  // A copy of the thread has arrived: from now on it is a write like any other.
  void finish_copy(uintptr_t address, size_t bytes, const Moment& now) {
    for (size_t i = address - start_; i < address - start_ + bytes; ++i) {
      Access& write = cells_[i].write;
      if (write.kind != AccessKind::copy_under_way || write.thread != now.thread) continue;
      static_cast<Moment&>(write) = now;
      write.kind = AccessKind::write;
    }
  }

 private:
  struct Cell {
    Access write, read, other_read;
  };

  static Finding visit(Cell& cell, const Access& access, const Ordering& ordering) {
    const bool is_new = !ordering.is_of_this_block(cell.write);
    if (is_new && reads(access.kind)) return {Finding::unwritten, nullptr};
    if (!is_new && cell.write.kind == AccessKind::copy_under_way)
      return {Finding::copy_not_waited_for, &cell.write};
    if (reads(access.kind) && collide(cell.write, access, ordering)) return {Finding::race, &cell.write};
    if (writes(access.kind) && collide(cell.read, access, ordering)) return {Finding::race, &cell.read};
    if (writes(access.kind) && collide(cell.other_read, access, ordering))
      return {Finding::race, &cell.other_read};
    if (reads(access.kind)) remember_read(cell, access);
    if (writes(access.kind)) cell.write = access;
    return {};
  }

  static bool collide(const Access& earlier, const Access& access, const Ordering& ordering) {
    return !(is_atomic(earlier.kind) && is_atomic(access.kind)) && ordering.is_concurrent(earlier, access);
  }

  // Keeps the latest reader, and beside it one of another warp rather than another of the same.
  static void remember_read(Cell& cell, const Access& access) {
    const auto warp = [](const Access& of) { return of.thread / Ordering::kLanes; };
    const bool other_is_dear = cell.other_read.epoch == access.epoch && warp(cell.other_read) != warp(access);
    if (cell.read.thread != access.thread && (warp(cell.read) != warp(access) || !other_is_dear)) {
      cell.other_read = cell.read;
    }
    cell.read = access;
  }

  uintptr_t start_ = 0;
  size_t bytes_ = 0;
  std::vector<Cell> cells_;
};
