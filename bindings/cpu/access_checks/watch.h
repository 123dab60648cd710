// Who writes a range of device memory: the first write, the last, and how many there were.
//
// While something is watched nothing is refused: the question is who wrote it, also in a kernel that does wrong.
#pragma once

#include <cstdint>
#include <mutex>

#include "simt_runtime.h"

// watch.py mirrors both structs.
struct Writer {
  simt::Index3 block, thread;
  uint64_t program_counter;
};

struct Writes {
  uint64_t count;
  Writer first, last;
};

class Watch {
 public:
  void begin(uintptr_t start, size_t bytes) {
    start_ = start;
    end_ = start + bytes;
    take();
  }

  bool is_on() const { return end_ > start_; }
  bool covers(uintptr_t address, size_t bytes) const { return address < end_ && start_ < address + bytes; }

  // Blocks run on several OS threads.
  void note(const Writer& writer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (writes_.count++ == 0) writes_.first = writer;
    writes_.last = writer;
  }

  // The writes since the last call.
  Writes take() {
    const Writes taken = writes_;
    writes_ = {};
    return taken;
  }

 private:
  uintptr_t start_ = 0, end_ = 0;
  Writes writes_ = {};
  std::mutex mutex_;
};

// Begins and ends between launches.
extern Watch watch;
