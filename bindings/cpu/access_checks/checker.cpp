#include "checker.h"

#include <algorithm>

namespace {

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

bool lies_in(uintptr_t address, uintptr_t start, size_t bytes) { return address - start < bytes; }

// An access this far from static shared memory was hardly meant for anything else.
constexpr size_t kNearStatic = 4096;

const char* name_of(AccessKind kind) {
  if (kind == AccessKind::copy_under_way) return "cp.async";
  if (kind == AccessKind::atomic) return "atomic operation";
  return reads(kind) ? "read" : "write";
}

}  // namespace

Watch watch;

void Checker::begin_launch(const LaunchShape& shape) {
  is_watching_ = watch.is_on();
  module_base_ = shape.module_base;
  module_end_ = shape.module_end;
  arrays_ = shape.arrays;
  num_arrays_ = shape.num_arrays;
  latest_ = nullptr;  // the list may have changed
  dynamic_.cover(number(worker_.shared.dynamic()), worker_.shared.requested_bytes());
  static_.cover(number(worker_.shared.static_arrays()), worker_.shared.static_bytes());
}

void Checker::access(const Fiber& fiber, const void* address, size_t bytes, AccessKind kind,
                     const void* program_counter) {
  const Visit visit = {fiber, number(address), bytes, kind, number(program_counter) - 1};
  if (is_private(visit) || !bytes) return;
  if (is_watching_) return note_write(visit);
  if (SharedShadow* shadow = shared_with(visit)) return check_shared(visit, *shadow);
  if (check_device(visit) || is_of_program(visit)) return;
  fail("illegal address", visit, visit.address);
}

void Checker::access_shared(const Fiber& fiber, const void* address, size_t bytes, AccessKind kind,
                            const void* program_counter) {
  const Visit visit = {fiber, number(address), bytes, kind, number(program_counter) - 1};
  if (SharedShadow* shadow = shared_with(visit)) return check_shared(visit, *shadow);
  fail("illegal address", visit, visit.address, ", which must be shared memory");
}

void Checker::note_write(const Visit& visit) const {
  if (!writes(visit.kind) || !watch.covers(visit.address, visit.bytes)) return;
  watch.note({worker_.index, visit.fiber.index, visit.program_counter});
}

void Checker::begin_copy(const Fiber& fiber, const void* target, const void* source, size_t bytes,
                         const void* program_counter) {
  if (is_watching_) return;  // its target is shared memory
  const void* crooked = number(target) % bytes ? target : source;
  if (number(crooked) % bytes) {
    misaligned(fiber, crooked, "cp.async of 16 bytes needs both addresses to be multiples of 16",
               program_counter);
  }
  if (source) access(fiber, source, bytes, AccessKind::read, program_counter);
  access_shared(fiber, target, bytes, AccessKind::copy_under_way, program_counter);
}

void Checker::load_matrix_row(const Fiber& fiber, const void* row, size_t bytes,
                              const void* program_counter) {
  if (is_watching_) return;
  if (number(row) % bytes) {
    misaligned(fiber, row, "ldmatrix needs a row's address to be a multiple of 16", program_counter);
  }
  access_shared(fiber, row, bytes, AccessKind::read, program_counter);
}

void Checker::finish_copy(const Fiber& fiber, const void* target, size_t bytes) {
  if (is_watching_) return;
  SharedShadow& shadow = dynamic_.contains(number(target), bytes) ? dynamic_ : static_;
  shadow.finish_copy(number(target), bytes, ordering_.now(number_of(fiber)));
}

void Checker::misaligned(const Fiber& fiber, const void* address, const char* what,
                         const void* program_counter) {
  const Visit visit = {fiber, number(address), 1, AccessKind::read, number(program_counter) - 1};
  worker_.fault_address = visit.address;
  worker_.fault_program_counter = visit.program_counter;
  worker_.fail_access("misaligned address", fiber, what, locate(visit.address));
}

unsigned Checker::number_of(const Fiber& fiber) const {
  return static_cast<unsigned>(&fiber - worker_.fibers());
}

// Whether the thread touches its own local memory.
bool Checker::is_private(const Visit& visit) const {
  return lies_in(visit.address, number(visit.fiber.stack) - kStackBytes, kStackBytes);
}

// Whether it touches what belongs to the program rather than to the device: constants and variables of the module,
// and the runtime's description of the thread and its block.
bool Checker::is_of_program(const Visit& visit) const {
  return lies_in(visit.address, module_base_, module_end_ - module_base_) ||
         lies_in(visit.address, number(&worker_), sizeof(worker_)) ||
         lies_in(visit.address, number(&simt_thread), sizeof(simt_thread));
}

bool Checker::is_array(const Visit& visit) const {
  const size_t offset = visit.address - static_.start();
  return std::any_of(arrays_, arrays_ + num_arrays_, [&](const SharedArray& array) {
    return offset - array.offset < array.bytes && visit.bytes <= array.bytes - (offset - array.offset);
  });
}

SharedShadow* Checker::shared_with(const Visit& visit) {
  if (dynamic_.contains(visit.address, visit.bytes)) return &dynamic_;
  return static_.contains(visit.address, visit.bytes) && is_array(visit) ? &static_ : nullptr;
}

void Checker::check_shared(const Visit& visit, SharedShadow& shadow) {
  const Access access = {ordering_.now(number_of(visit.fiber)), visit.kind, visit.program_counter};
  size_t index;
  const Finding found = shadow.visit(visit.address, visit.bytes, access, ordering_, &index);
  switch (found.kind) {
    case Finding::none:
      return;
    case Finding::unwritten:
      fail("read of unwritten memory", visit, shadow.start() + index, " that nobody wrote");
    case Finding::copy_not_waited_for:
      fail("race on shared memory", visit, shadow.start() + index, "", found.other,
           "with no cp_async_wait after");
    case Finding::race:
      fail("race on shared memory", visit, shadow.start() + index, "", found.other, "with no barrier after");
  }
}

// Whether the access goes to an allocation, all of it.
bool Checker::check_device(const Visit& visit) {
  const Allocation* allocation = latest_;
  if (!allocation || !allocation->contains(visit.address, visit.bytes)) {
    allocation = checked_memory->before(visit.address);
    if (!allocation || !allocation->contains(visit.address, visit.bytes)) return false;
    latest_ = allocation;
  }
  if (reads(visit.kind) && !allocation->is_written(visit.address, visit.bytes)) {
    fail("read of unwritten memory", visit, visit.address, " that nobody wrote");
  }
  if (writes(visit.kind)) allocation->mark_written(visit.address, visit.bytes);
  return true;
}

AccessReport Checker::locate(uintptr_t address) const {
  AccessReport found = {};
  const uintptr_t static_start = static_.start() - kNearStatic;
  if (worker_.shared.is_near_dynamic(address)) {
    found.memory = Memory::dynamic_shared;
    found.offset = static_cast<int64_t>(address - dynamic_.start());
  } else if (static_.start() && lies_in(address, static_start, static_.end() + kNearStatic - static_start)) {
    found.memory = Memory::static_shared;
    found.offset = static_cast<int64_t>(address - static_.start());
  } else {
    found.memory = Memory::device;
  }
  return found;
}

void Checker::fail(const char* kind, const Visit& visit, uintptr_t address, const char* remark,
                   const Access* other, const char* missing) {
  char text[128];
  write_text(text, sizeof(text), "%s of %zu byte%s%s", name_of(visit.kind), visit.bytes,
             visit.bytes == 1 ? "" : "s", remark);
  AccessReport found = locate(address);
  if (other) {
    write_text(found.other, sizeof(found.other), "%s the %s", missing, name_of(other->kind));
    found.other_thread = worker_.fibers()[other->thread].index;
    found.other_program_counter = other->program_counter;
  }
  worker_.fault_address = found.memory == Memory::device ? address : 0;
  worker_.fault_program_counter = visit.program_counter;
  worker_.fail_access(kind, visit.fiber, text, found);
}
