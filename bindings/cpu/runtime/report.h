// What went wrong in a launch, as executor.py reads it (its `_CReport` mirrors this struct).
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "simt_runtime.h"

// Where an access of a checked launch went; executor.py turns it into a buffer's name.
enum class Memory : int { unknown, device, dynamic_shared, static_shared };

// What a checked launch adds to a report.
struct AccessReport {
  Memory memory;
  int64_t offset;  // from the start of dynamic or static shared memory
  // The earlier access that this one collides with: what it was ("the write"), empty if there is none.
  char other[64];
  simt::Index3 other_thread;
  uint64_t other_program_counter;
};

struct Report {
  char kind[64];
  char text[1536];
  char file[512];  // empty if the place is not known
  int line;
  int has_thread;  // a deadlock is nobody's in particular
  simt::Index3 block;
  simt::Index3 thread;
  uint64_t address;          // of a faulting access, else 0
  uint64_t program_counter;  // where the fault happened, else 0
  AccessReport access;
};

[[gnu::format(printf, 3, 4)]] inline void write_text(char* text, size_t size, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, size, format, arguments);
  va_end(arguments);
}
