// What a checked launch knows of device memory: the allocations that live, and which of their bytes somebody wrote.
//
// checks.py keeps the list: it adds an allocation with a map of one byte for each of its own (0: nobody wrote it), and
// marks what copies, fills and products write. Kernels mark what they store. A byte and not a bit, so that blocks on
// several OS threads can mark neighbours with plain stores; the map takes memory only where it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

struct Allocation {
  uintptr_t start, end;
  uint8_t* written;  // null: everything counts as written

  bool contains(uintptr_t address, size_t bytes) const {
    return address >= start && address < end && bytes <= end - address;
  }

  bool is_written(uintptr_t address, size_t bytes) const {
    if (!written) return true;
    const uint8_t* map = written + (address - start);
    for (; bytes >= sizeof(uint64_t); bytes -= sizeof(uint64_t), map += sizeof(uint64_t)) {
      uint64_t eight;
      memcpy(&eight, map, sizeof(eight));
      if (eight != 0x0101010101010101u) return false;
    }
    for (; bytes; --bytes, ++map) {
      if (!*map) return false;
    }
    return true;
  }

  void mark_written(uintptr_t address, size_t bytes) const {
    if (written) memset(written + (address - start), 1, bytes);
  }
};

class DeviceMemory {
 public:
  void add(const Allocation& allocation);
  void remove(uintptr_t start);
  void clear() { allocations_.clear(); }

  // The allocation that begins at or before `address` and is the nearest; null if there is none.
  const Allocation* before(uintptr_t address) const;

 private:
  std::vector<Allocation> allocations_;  // by start
};

// The device's memory while it is checked, else null. Changes only between launches.
extern DeviceMemory* checked_memory;
