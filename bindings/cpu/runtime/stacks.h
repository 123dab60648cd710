// A pool of fiber stacks, each with a guard page below it, so that an overflow faults instead of reaching a
// neighbour.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

constexpr size_t kStackBytes = 64 << 10;

// Stacks lie at a power of two from one another, so their tops would all compete for the same few sets of the
// processor's caches. Starting each a little lower than the last spreads them.
constexpr size_t kColourStep = 448;
constexpr size_t kColours = 32;

class StackPool {
 public:
  // Top of a free stack, or null if the system gives no more memory.
  char* take() {
    if (!reserve()) return nullptr;
    char* top = free_.back();
    free_.pop_back();
    return top;
  }

  // Makes sure that the next take() succeeds.
  bool reserve() { return !free_.empty() || grow(); }

  void give_back(char* top) { free_.push_back(top); }

  // All stacks are free again, whoever had them.
  void take_all_back() { free_ = all_; }

  bool in_guard_page(const void* address) const {
    for (const char* slot : slots_) {
      if (address >= slot && address < slot + page_bytes()) return true;
    }
    return false;
  }

 private:
  static size_t page_bytes() {
    static const size_t bytes = sysconf(_SC_PAGESIZE);
    return bytes;
  }

  bool grow() {
    const size_t bytes = page_bytes() + kStackBytes + kColours * kColourStep;
    const size_t rounded = (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
    void* memory =
        mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (mprotect(memory, page_bytes(), PROT_NONE) != 0) return munmap(memory, rounded), false;
    char* slot = static_cast<char*>(memory);
    slots_.push_back(slot);
    all_.push_back(slot + rounded - all_.size() % kColours * kColourStep);
    free_.push_back(all_.back());
    return true;
  }

  std::vector<char*> slots_, all_, free_;
};
