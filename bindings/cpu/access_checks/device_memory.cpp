#include "device_memory.h"

#include <algorithm>

DeviceMemory* checked_memory = nullptr;

namespace {

bool begins_before(const Allocation& allocation, uintptr_t address) { return allocation.start < address; }
bool lies_before(uintptr_t address, const Allocation& allocation) { return address < allocation.start; }

}  // namespace

void DeviceMemory::add(const Allocation& allocation) {
  allocations_.insert(
      std::lower_bound(allocations_.begin(), allocations_.end(), allocation.start, begins_before),
      allocation);
}

void DeviceMemory::remove(uintptr_t start) {
  const auto found = std::lower_bound(allocations_.begin(), allocations_.end(), start, begins_before);
  if (found != allocations_.end() && found->start == start) allocations_.erase(found);
}

const Allocation* DeviceMemory::before(uintptr_t address) const {
  const auto next = std::upper_bound(allocations_.begin(), allocations_.end(), address, lies_before);
  return next == allocations_.begin() ? nullptr : &*(next - 1);
}
