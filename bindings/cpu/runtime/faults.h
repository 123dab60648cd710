// Turns a fault inside a kernel (SIGSEGV and its kin) into a report; all other faults go on to whoever
// handled them before.
#pragma once

#include <signal.h>

// Makes sure that our handlers are in place; cheap when they are.
void install_fault_handlers();

// While one lives, this OS thread handles signals on a stack of its own: a fiber that overflowed has none to
// spare.
class SignalStack {
 public:
  SignalStack();
  ~SignalStack();
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  void* memory_;
  stack_t previous_;
};
