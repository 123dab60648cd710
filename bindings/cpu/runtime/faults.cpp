#include "faults.h"

#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <mutex>

#include "worker.h"

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr size_t kSignalStackBytes = 64 << 10;

struct sigaction previous_actions[64];
std::mutex install_mutex;

// Where the linker has put this very library.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start, _end;

bool in_runtime(uint64_t instruction) {
  return instruction - reinterpret_cast<uint64_t>(&__ehdr_start) <
         reinterpret_cast<uint64_t>(&_end) - reinterpret_cast<uint64_t>(&__ehdr_start);
}

uint64_t program_counter(const void* context) {
  const mcontext_t& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  return static_cast<uint64_t>(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return machine.pc;
#else
  return (void)machine, 0;
#endif
}

const char* kind_of(const Worker& worker, int signal, const siginfo_t& info) {
  if (signal == SIGFPE) return "integer division by zero";
  if (signal == SIGILL) return "illegal instruction";
  if (worker.stacks.in_guard_page(info.si_addr)) return "stack overflow";
#ifdef SI_KERNEL
  // x86 tells no address for a vector access that is not aligned, nor for an address that cannot exist.
  if (signal == SIGSEGV && info.si_code == SI_KERNEL) return "misaligned address";
#endif
  if (signal == SIGBUS && info.si_code == BUS_ADRALN) return "misaligned address";
  return "illegal address";
}

void describe(char* text, size_t size, const Worker& worker, const char* kind, const void* address) {
  const int64_t past_end = worker.shared.bytes_past_end(address);
  if (past_end >= 0) {
    write_text(text, size, "access %lld bytes past the end of dynamic shared memory",
               static_cast<long long>(past_end));
  } else if (!strcmp(kind, "stack overflow")) {
    write_text(text, size, "local variables need more than the %zu KB of stack that a thread has",
               kStackBytes >> 10);
  } else if (!strcmp(kind, "misaligned address")) {
    write_text(text, size, "a vector access to an address that is not a multiple of its size");
  } else if (!strcmp(kind, "illegal address")) {
    write_text(text, size, "access to address %p, where no memory is", address);
  } else {
    write_text(text, size, "%s", kind);
  }
}

// A handler that was installed around ours passes the signal back to us when it is done: then the default
// comes next.
__thread bool passing_on;

void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& previous = previous_actions[signal];
  const bool is_function =
      previous.sa_flags & SA_SIGINFO || (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN);
  if (passing_on || !is_function) {
    ::signal(signal, SIG_DFL);  // the faulting instruction runs again, and ends the process
    return;
  }
  passing_on = true;
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
  } else {
    previous.sa_handler(signal);
  }
  passing_on = false;
}

// Runs on the signal stack, and does not come back to it: the worker goes on where it had started the block.
void on_fault(int signal, siginfo_t* info, void* context) {
  Fiber* fiber = this_fiber();
  if (!fiber) return pass_on(signal, info, context);
  Worker& worker = worker_of(*fiber);
  const char* kind = kind_of(worker, signal, *info);
  char text[256];
  describe(text, sizeof(text), worker, kind, info->si_addr);
  const bool has_address = signal == SIGSEGV || signal == SIGBUS;
  worker.fault_address = has_address ? reinterpret_cast<uint64_t>(info->si_addr) : 0;
  worker.fault_program_counter = program_counter(context);
  // In the runtime only what a kernel handed to it can fault: then the line that did so is the one to name.
  const simt::Place place = in_runtime(worker.fault_program_counter) ? fiber->place : simt::Place{};
  worker.fail(kind, *fiber, place, text);
}

bool is_ours(const struct sigaction& action) {
  return action.sa_flags & SA_SIGINFO && action.sa_sigaction == on_fault;
}

}  // namespace

void install_fault_handlers() {
  struct sigaction current;
  sigaction(SIGSEGV, nullptr, &current);
  if (is_ours(current)) return;  // whoever takes one of our signals takes this one
  const std::lock_guard<std::mutex> lock(install_mutex);
  for (const int signal : kSignals) {
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    // NODEFER: the handler is left by a switch, which would leave the signal blocked.
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(signal, &ours, &current);
    if (!is_ours(current)) previous_actions[signal] = current;
  }
}

SignalStack::SignalStack() : memory_(malloc(kSignalStackBytes)) {
  stack_t ours = {};
  ours.ss_sp = memory_;
  ours.ss_size = kSignalStackBytes;
  sigaltstack(&ours, &previous_);
}

SignalStack::~SignalStack() {
  sigaltstack(&previous_, nullptr);
  free(memory_);
}
