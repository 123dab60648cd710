#include "fiber.h"

#include <cstdint>

#if !defined(SIMT_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define SIMT_UCONTEXT
#endif

#ifdef SIMT_UCONTEXT

#include <ucontext.h>

// A context is the ucontext_t of whoever waits; it lies on the waiting stack itself.
void simt_switch(void** save, void* resume) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(resume));
}

void* simt_prepare_fiber(void* stack_top, size_t stack_bytes, void (*entry)()) {
  const uintptr_t address = (reinterpret_cast<uintptr_t>(stack_top) - sizeof(ucontext_t)) & ~uintptr_t{63};
  ucontext_t* context = reinterpret_cast<ucontext_t*>(address);
  getcontext(context);
  const size_t taken = static_cast<char*>(stack_top) - reinterpret_cast<char*>(context);
  context->uc_stack.ss_sp = static_cast<char*>(stack_top) - stack_bytes;
  context->uc_stack.ss_size = stack_bytes - taken;
  context->uc_link = nullptr;  // an entry never returns
  makecontext(context, entry, 0);
  return context;
}

#else

#if defined(__x86_64__)

// A kernel stands still in the middle of a function that uses AVX, and the code that runs next may be libm's, which uses
// SSE: on many processors every such instruction then drags the upper halves of the vector registers along. A call may
// clobber them, so they are cleared here. (Measured: gumbel_sample, all logf, takes a fifth of the time.)
#if defined(__AVX__)
#define SIMT_CLEAR_UPPER_HALVES "  vzeroupper\n"
#else
#define SIMT_CLEAR_UPPER_HALVES ""
#endif

// Six registers and the return address. `ret` keeps the processor's stack of predicted returns in step:
// fibers mostly wait in the same function, called from the same line, so one's predictions are right for the
// next.
asm(R"(
  .text
  .p2align 4
  .hidden simt_switch
  .globl simt_switch
  .type simt_switch, @function
simt_switch:
)" SIMT_CLEAR_UPPER_HALVES R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch, . - simt_switch
)");

// A stack that looks as if `entry` had just been called from nowhere and had switched away at once.
void* simt_prepare_fiber(void* stack_top, size_t, void (*entry)()) {
  void** top = static_cast<void**>(stack_top);
  *--top = nullptr;  // the address that entry would return to; it keeps the stack aligned as the ABI asks
  *--top = reinterpret_cast<void*>(entry);
  return top - 6;  // the six registers: any value will do
}

#else  // aarch64

// x19..x28, frame pointer, link register, and the low halves of v8..v15.
asm(R"(
  .text
  .p2align 4
  .hidden simt_switch
  .globl simt_switch
  .type simt_switch, %function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  br x30
  .size simt_switch, . - simt_switch
)");

void* simt_prepare_fiber(void* stack_top, size_t, void (*entry)()) {
  void** saved = static_cast<void**>(stack_top) - 20;  // 160 bytes
  saved[10] = nullptr;                                 // frame pointer: the end of the chain
  saved[11] = reinterpret_cast<void*>(entry);
  return saved;
}

#endif  // processor
#endif  // SIMT_UCONTEXT
