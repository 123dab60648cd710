// What went wrong in a launch, as executor.py reads it (its `_CReport` mirrors this struct).
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "simt_runtime.h"

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
};

[[gnu::format(printf, 3, 4)]] inline void write_text(char* text, size_t size, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, size, format, arguments);
  va_end(arguments);
}
