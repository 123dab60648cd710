// The functions that a kernel compiled with -fsanitize=thread,alignment calls before each access to memory.
//
// Both g++ and clang then emit a call of __tsan_read4(address), __tsan_write16(address), ... before every access that
// may not be to a local variable of its own function, and make atomics calls of their own. They expect the sanitizers'
// libraries; linked without those, modules find the functions here. The names and signatures are the compilers'
// (LLVM's compiler-rt: tsan_interface.h, tsan_interface_atomic.h, ubsan_handlers.h).
#include <cstring>

#include "checker.h"

namespace {

// Every worker's checks are a Checker, if it has any.
inline Checker* checker_of(const Fiber& fiber) { return static_cast<Checker*>(worker_of(fiber).checks); }

// Always inline: the return address must be that of the function which the kernel called.
[[gnu::always_inline]] inline void check(const void* address, size_t bytes, AccessKind kind,
                                         const void* program_counter) {
  const Fiber* fiber = this_fiber();
  if (!fiber) return;  // a constructor of the module
  Checker* checker = checker_of(*fiber);
  if (checker) checker->access(*fiber, address, bytes, kind, program_counter);
}

// Every order is made sequentially consistent: more than a kernel asked for does not hide an error of its own.
template <typename T>
bool compare_exchange(volatile T* address, T* expected, T value) {
  return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

// What -fsanitize=alignment says of a place in the source.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  SourceLocation location;
  const TypeDescriptor* type;
  uint8_t log_alignment, check;
};

void check_alignment(const TypeMismatch& mismatch, const void* address, const void* program_counter) {
  const Fiber* fiber = this_fiber();
  Checker* checker = fiber ? checker_of(*fiber) : nullptr;
  const unsigned alignment = 1u << mismatch.log_alignment;
  if (!checker || checker->is_watching() || reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  char text[128];
  write_text(text, sizeof(text), "access of type %s to an address that is not a multiple of %u",
             mismatch.type->name, alignment);
  checker->misaligned(*fiber, address, text, program_counter);
}

}  // namespace

#define CHECK(address, bytes, kind) \
  check((const void*)(address), bytes, AccessKind::kind, __builtin_return_address(0))

#define SIZED(n)                                                                                  \
  void __tsan_read##n(void* address) { CHECK(address, n, read); }                                 \
  void __tsan_write##n(void* address) { CHECK(address, n, write); }                               \
  void __tsan_unaligned_read##n(void* address) { CHECK(address, n, read); }                       \
  void __tsan_unaligned_write##n(void* address) { CHECK(address, n, write); }                     \
  void __tsan_volatile_read##n(void* address) { CHECK(address, n, read); }                        \
  void __tsan_volatile_write##n(void* address) { CHECK(address, n, write); }                      \
  void __tsan_unaligned_volatile_read##n(void* address) { CHECK(address, n, read); }              \
  void __tsan_unaligned_volatile_write##n(void* address) { CHECK(address, n, write); }            \
  void __tsan_read_write##n(void* address) { CHECK(address, n, read), CHECK(address, n, write); } \
  void __tsan_unaligned_read_write##n(void* address) { CHECK(address, n, read), CHECK(address, n, write); }

#define FETCH(bits, name, builtin)                                                                           \
  uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* address, uint##bits##_t value, int) { \
    CHECK(address, bits / 8, atomic);                                                                        \
    return builtin(address, value, __ATOMIC_SEQ_CST);                                                        \
  }

#define COMPARE(bits, name)                                                                         \
  int __tsan_atomic##bits##_compare_exchange_##name(                                                \
      volatile uint##bits##_t* address, uint##bits##_t* expected, uint##bits##_t value, int, int) { \
    CHECK(address, bits / 8, atomic);                                                               \
    return compare_exchange(address, expected, value);                                              \
  }

#define ATOMIC(bits)                                                                               \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* address, int) {         \
    CHECK(address, bits / 8, atomic_read);                                                         \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* address, uint##bits##_t value, int) {  \
    CHECK(address, bits / 8, atomic_write);                                                        \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  FETCH(bits, exchange, __atomic_exchange_n)                                                       \
  FETCH(bits, fetch_add, __atomic_fetch_add)                                                       \
  FETCH(bits, fetch_sub, __atomic_fetch_sub)                                                       \
  FETCH(bits, fetch_and, __atomic_fetch_and)                                                       \
  FETCH(bits, fetch_or, __atomic_fetch_or)                                                         \
  FETCH(bits, fetch_xor, __atomic_fetch_xor)                                                       \
  FETCH(bits, fetch_nand, __atomic_fetch_nand)                                                     \
  COMPARE(bits, strong)                                                                            \
  COMPARE(bits, weak)                                                                              \
  uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                       \
      volatile uint##bits##_t* address, uint##bits##_t expected, uint##bits##_t value, int, int) { \
    CHECK(address, bits / 8, atomic);                                                              \
    compare_exchange(address, &expected, value);                                                   \
    return expected;                                                                               \
  }

#pragma GCC visibility push(default)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

SIZED(1)
SIZED(2)
SIZED(4)
SIZED(8)
SIZED(16)

void __tsan_read_range(void* address, size_t bytes) { CHECK(address, bytes, read); }
void __tsan_write_range(void* address, size_t bytes) { CHECK(address, bytes, write); }
void __tsan_vptr_read(void** address) { CHECK(address, sizeof(void*), read); }
void __tsan_vptr_update(void** address, void*) { CHECK(address, sizeof(void*), write); }

void* __tsan_memcpy(void* target, const void* source, size_t bytes) {
  CHECK(source, bytes, read);
  CHECK(target, bytes, write);
  return memcpy(target, source, bytes);
}

void* __tsan_memmove(void* target, const void* source, size_t bytes) {
  CHECK(source, bytes, read);
  CHECK(target, bytes, write);
  return memmove(target, source, bytes);
}

void* __tsan_memset(void* target, int value, size_t bytes) {
  CHECK(target, bytes, write);
  return memset(target, value, bytes);
}

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

void __ubsan_handle_type_mismatch_v1(const TypeMismatch* mismatch, const void* address) {
  check_alignment(*mismatch, address, __builtin_return_address(0));
}

}  // extern "C"
#pragma GCC visibility pop
