// What a checked launch asks of whoever looks at accesses to memory. The answers are in ../access_checks, a library of
// its own: only who asks for checks has to compile it.
#pragma once

#include <cstddef>
#include <cstdint>

struct Fiber;
struct LaunchShape;
struct Worker;

// The checks of one worker. `program_counter` is the return address of the call that stands before the access.
class Checks {
 public:
  virtual void begin_launch(const LaunchShape& shape) = 0;
  virtual void begin_block(unsigned num_warps) = 0;
  // What orders the threads: all have met, or these lanes of a warp.
  virtual void block_barrier() = 0;
  virtual void meet(unsigned warp, uint32_t lanes) = 0;
  // The runtime's own instructions that touch memory. `source` is null for a copy of zeros.
  virtual void begin_copy(const Fiber& fiber, const void* target, const void* source, size_t bytes,
                          const void* program_counter) = 0;
  virtual void finish_copy(const Fiber& fiber, const void* target, size_t bytes) = 0;
  virtual void load_matrix_row(const Fiber& fiber, const void* row, size_t bytes,
                               const void* program_counter) = 0;

 protected:
  ~Checks() = default;
};

// Makes the checks of a worker; null while checks are off.
extern Checks* (*make_checks)(Worker& worker);
