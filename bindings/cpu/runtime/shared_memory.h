// The shared memory of the block that a worker runs.
//
// Static arrays are thread-local variables of the kernel's module, so all of a module's lie in one
// thread-local block. Dynamic shared memory ends where an inaccessible page begins: an access past its end
// faults. Both are filled with 0xFF (a NaN in every float format, -1 as an integer) before each block, since
// a GPU gives a block memory that holds anything.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

// What the C++ ABI calls to find a thread-local variable: `offset` bytes into the block of `module`.
struct TlsIndex {
  unsigned long module;
  unsigned long offset;
};
extern "C" void* __tls_get_addr(TlsIndex*);

// A static shared array: where it lies in the block of its module's thread-local variables.
struct SharedArray {
  size_t offset, bytes;
};

class SharedMemory {
 public:
  static constexpr size_t kAlignment = 16;

  // Makes room for both kinds. `tls_module` 0 means no static shared memory. False if the system gives no
  // memory.
  bool prepare(size_t dynamic_bytes, size_t tls_module, size_t tls_bytes) {
    requested_bytes_ = dynamic_bytes;
    dynamic_bytes_ = (dynamic_bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (dynamic_bytes_ > capacity_ && !grow(dynamic_bytes_)) return false;
    TlsIndex start = {tls_module, 0};
    static_ = tls_module ? __tls_get_addr(&start) : nullptr;
    static_bytes_ = tls_module ? tls_bytes : 0;
    return true;
  }

  void poison() {
    if (static_bytes_) memset(static_, 0xff, static_bytes_);
    if (dynamic_bytes_) memset(dynamic(), 0xff, dynamic_bytes_);
  }

  unsigned char* dynamic() const { return guard_ - dynamic_bytes_; }
  size_t requested_bytes() const { return requested_bytes_; }
  const void* static_arrays() const { return static_; }
  size_t static_bytes() const { return static_bytes_; }

  // Whether `address` lies in what was mapped for dynamic shared memory, its guard page included.
  bool is_near_dynamic(uintptr_t address) const {
    return guard_ && address - reinterpret_cast<uintptr_t>(guard_ - capacity_) < capacity_ + kGuardBytes;
  }

  // How far past the end of dynamic shared memory `address` lies, or -1 if it is not in the page behind it.
  int64_t bytes_past_end(const void* address) const {
    const unsigned char* byte = static_cast<const unsigned char*>(address);
    return guard_ && byte >= guard_ && byte < guard_ + kGuardBytes ? byte - guard_ : -1;
  }

 private:
  static constexpr size_t kGuardBytes = 64 << 10;  // a multiple of every page size in use

  bool grow(size_t bytes) {
    const size_t capacity = (bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes;
    void* memory =
        mmap(nullptr, capacity + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (guard_) munmap(guard_ - capacity_, capacity_ + kGuardBytes);
    guard_ = static_cast<unsigned char*>(memory) + capacity;
    capacity_ = capacity;
    return mprotect(guard_, kGuardBytes, PROT_NONE) == 0;
  }

  unsigned char* guard_ = nullptr;
  size_t capacity_ = 0;
  size_t dynamic_bytes_ = 0, requested_bytes_ = 0;
  void* static_ = nullptr;
  size_t static_bytes_ = 0;
};
