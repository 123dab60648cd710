// A pool of OS threads that stays for the life of the process and helps whoever has work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

class Task {
 public:
  // Called by the owner (index 0) and by each helper that joins (1 and up), all at once; returns when nothing
  // is left to take.
  virtual void work(unsigned index) = 0;

 protected:
  ~Task() = default;
};

class Pool {
 public:
  explicit Pool(unsigned threads) : threads_(threads) {}

  unsigned threads() const { return threads_; }

  // Does the task here, with up to `helpers` other threads; returns when it is done. One caller at a time.
  void run(Task& task, unsigned helpers);

 private:
  void help(unsigned index);
  Task* join();

  const unsigned threads_;
  unsigned started_ = 1;  // the caller counts
  std::mutex mutex_;
  std::condition_variable wake_;
  Task* task_ = nullptr;
  unsigned sleeping_ = 0;
  std::atomic<unsigned> places_{0};  // how many more helpers the task wants
  std::atomic<unsigned> active_{0};  // how many are at work
};
