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
    write_text(text, size, "access %lld bytes past the end of dynamic shared memory", static_cast<long long>(past_end));
  } else if (!strcmp(kind, "stack overflow")) {
    write_text(text, size, "local variables need more than the %zu KB of stack that a thread has", kStackBytes >> 10);
  } else if (!strcmp(kind, "misaligned address")) {
    write_text(text, size, "a vector access to an address that is not a multiple of its size");
  } else if (!strcmp(kind, "illegal address")) {
    write_text(text, size, "access to address %p, where no memory is", address);
  } else {
    write_text(text, size, "%s", kind);
  }
}

void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& previous = previous_actions[signal];
  if (previous.sa_flags & SA_SIGINFO) return previous.sa_sigaction(signal, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  sigaction(signal, &previous, nullptr);  // the faulting instruction runs again, and meets the default
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
  worker.fail(kind, *fiber, worker.accessing, text);
}

bool is_ours(const struct sigaction& action) { return action.sa_flags & SA_SIGINFO && action.sa_sigaction == on_fault; }

}  // namespace

void install_fault_handlers() {
  const std::lock_guard<std::mutex> lock(install_mutex);
  for (const int signal : kSignals) {
    struct sigaction current;
    sigaction(signal, nullptr, &current);
    if (is_ours(current)) continue;
    previous_actions[signal] = current;
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    // NODEFER: the handler is left by a switch, which would leave the signal blocked.
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(signal, &ours, nullptr);
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
