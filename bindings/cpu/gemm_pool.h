// A pool of threads that lives as long as the process: `run` calls a function once for each item of a job.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

class Pool {
 public:
  // `threads` counts the caller of run(), which works too.
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) std::thread([this] { serve(); }).detach();
  }

  // Runs work(0) ... work(items - 1), each once, on any thread, and returns when all are done. One job at a time.
  void run(long items, const std::function<void(long)>& work) {
    std::lock_guard<std::mutex> one_job(caller_);
    next_ = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      items_ = items;
      work_ = &work;
      ++jobs_;
    }
    if (items > 1) wake_.notify_all();
    take_items(work, items);
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = nullptr;  // a thread that wakes up only now must not begin
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void take_items(const std::function<void(long)>& work, long items) {
    for (long item; (item = next_.fetch_add(1)) < items;) work(item);
  }

  void serve() {
    long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return jobs_ != seen; });
      seen = jobs_;
      if (work_ == nullptr) continue;
      const auto& work = *work_;
      const long items = items_;
      ++busy_;
      lock.unlock();
      take_items(work, items);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(long)>* work_ = nullptr;
  long items_ = 0, jobs_ = 0;
  int busy_ = 0;
  std::atomic<long> next_{0};
};
