// Checker: looks at every access to memory that the fibers of one worker make in a checked launch.
//
// Callers are the functions that the compiler puts before each access of a kernel (sanitizer_calls.cpp), and the
// runtime's own instructions that touch memory (cp.async, ldmatrix). What is found ends the launch with a report.
#pragma once

#include "device_memory.h"
#include "shared_shadow.h"
#include "watch.h"
#include "worker.h"

class Checker final : public Checks {
 public:
  explicit Checker(Worker& worker) : worker_(worker) {}

  void begin_launch(const LaunchShape& shape) override;
  void begin_block(unsigned num_warps) override { ordering_.begin_block(num_warps); }
  void block_barrier() override { ordering_.block_barrier(); }
  void meet(unsigned warp, uint32_t lanes) override { ordering_.meet(warp, lanes); }
  void begin_copy(const Fiber& fiber, const void* target, const void* source, size_t bytes,
                  const void* program_counter) override;
  void finish_copy(const Fiber& fiber, const void* target, size_t bytes) override;
  void load_matrix_row(const Fiber& fiber, const void* row, size_t bytes,
                       const void* program_counter) override;

  // An access of `bytes` bytes is about to be made by the instruction before `program_counter`.
  void access(const Fiber& fiber, const void* address, size_t bytes, AccessKind kind,
              const void* program_counter);
  [[noreturn]] void misaligned(const Fiber& fiber, const void* address, const char* what,
                               const void* program_counter);
  bool is_watching() const { return is_watching_; }

 private:
  // One access on its way through the checks.
  struct Visit {
    const Fiber& fiber;
    uintptr_t address;
    size_t bytes;
    AccessKind kind;
    uint64_t program_counter;
  };

  // An access by an instruction that knows no other memory than shared.
  void access_shared(const Fiber& fiber, const void* address, size_t bytes, AccessKind kind,
                     const void* program_counter);
  bool is_private(const Visit& visit) const;
  bool is_of_program(const Visit& visit) const;
  bool is_array(const Visit& visit) const;
  SharedShadow* shared_with(const Visit& visit);
  void note_write(const Visit& visit) const;
  void check_shared(const Visit& visit, SharedShadow& shadow);
  bool check_device(const Visit& visit);
  unsigned number_of(const Fiber& fiber) const;
  AccessReport locate(uintptr_t address) const;
  [[noreturn]] void fail(const char* kind, const Visit& visit, uintptr_t address, const char* remark = "",
                         const Access* other = nullptr, const char* missing = "");

  Worker& worker_;
  bool is_watching_ = false;  // then it only notes who writes what is watched
  uint64_t module_base_ = 0, module_end_ = 0;
  Ordering ordering_;
  SharedShadow dynamic_, static_;
  const SharedArray* arrays_ = nullptr;  // the parts of static_ that are memory; between them are gaps
  int num_arrays_ = 0;
  const Allocation* latest_ = nullptr;  // the allocation that was met last: mostly the next one, too
};
