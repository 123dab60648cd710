// The functions that executor.py calls; never during a launch, since both happen under the driver's lock.
#include "checker.h"

namespace {

Checks* new_checker(Worker& worker) { return new Checker(worker); }  // lives as long as the worker: for good

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void simt_use_checks(Checks* (*make)(Worker& worker));

void simt_check_memory(bool on) {
  delete checked_memory;
  checked_memory = on ? new DeviceMemory : nullptr;
  simt_use_checks(on ? new_checker : nullptr);
}

void simt_add_allocation(uintptr_t start, size_t bytes, uint8_t* written) {
  if (checked_memory) checked_memory->add({start, start + bytes, written});
}

void simt_remove_allocation(uintptr_t start) {
  if (checked_memory) checked_memory->remove(start);
}

// From the next launch on; 0 bytes end it.
void simt_watch(uintptr_t start, size_t bytes) { watch.begin(start, bytes); }

void simt_take_writes(Writes* writes) { *writes = watch.take(); }

}  // extern "C"
#pragma GCC visibility pop
