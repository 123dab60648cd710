// Fibers: contexts of their own that one OS thread switches between by hand.
//
// A switch saves what a C++ function must preserve (the ABI's callee-saved registers) on the stack that it
// leaves and remembers nothing but the stack pointer, so it costs a few nanoseconds. swapcontext, the
// portable way, also saves the signal mask by a system call and costs about 0.3 us; it serves other
// processors, and -DSIMT_UCONTEXT forces it.
#pragma once

#include <cstddef>

extern "C" {

// Saves the caller's context in *save and goes on where `resume` was saved.
void simt_switch(void** save, void* resume);

// A context that begins with a call of `entry`, which must not return, on the stack that ends at `stack_top`.
void* simt_prepare_fiber(void* stack_top, size_t stack_bytes, void (*entry)());
}
