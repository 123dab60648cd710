#include "pool.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace {

// How long an idle helper looks out for work before it goes to sleep: waking it costs the caller a system
// call and the helper some 50 us, and a decode step launches a kernel every few of these.
constexpr auto kWatch = std::chrono::microseconds(50);

constexpr int kPatience = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Pool::run(Task& task, unsigned helpers) {
  helpers = std::min(helpers, threads_ - 1);
  if (helpers) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (; started_ <= helpers; ++started_) std::thread(&Pool::help, this, started_).detach();
    task_ = &task;
    places_ = helpers;
    if (sleeping_) wake_.notify_all();
  }
  task.work(0);
  if (!helpers) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    task_ = nullptr;  // who comes now comes too late
    places_ = 0;
  }
  // A helper that the system has set aside needs a processor to finish, perhaps this one.
  for (int spins = 0; active_.load(std::memory_order_acquire); ++spins) {
    if (spins < kPatience) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::help(unsigned index) {
  for (;;) {
    join()->work(index);
    active_.fetch_sub(1, std::memory_order_release);
  }
}

// Waits until there is a task that wants help, and takes a place in it.
Task* Pool::join() {
  const auto end = std::chrono::steady_clock::now() + kWatch;
  while (!places_.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() < end) relax();
  std::unique_lock<std::mutex> lock(mutex_);
  if (!places_) {
    ++sleeping_;
    wake_.wait(lock, [&] { return places_ > 0; });
    --sleeping_;
  }
  --places_;
  ++active_;
  return task_;
}
