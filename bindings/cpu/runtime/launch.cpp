// The functions that executor.py calls: find a kernel's module, launch, set the schedule.
#include <link.h>
#include <pthread.h>

#include <time.h>

#include <algorithm>
#include <vector>

#include "faults.h"
#include "pool.h"
#include "worker.h"

// A kernel as executor.py keeps it (its `_CKernel` mirrors this struct).
struct LoadedKernel {
  void (*entry)(void** arguments);
  uint64_t module_base;          // the address that the module's symbols and lines are relative to
  uint64_t module_end;           // the first address behind it
  size_t tls_module, tls_bytes;  // its static shared memory
  double block_seconds;          // how long a block took in the last launch; 0 before the first
  int checked;                   // were its accesses compiled to call the checker?
  int num_arrays;                // of its module, with gaps between them if it is checked
  const SharedArray* arrays;
};

Checks* (*make_checks)(Worker& worker) = nullptr;

namespace {

// A helper is worth waking for this much work.
constexpr double kSecondsPerHelper = 20e-6;

Pool* pool = nullptr;
Schedule schedule;
std::mutex launch_mutex;
std::vector<Worker*> workers;  // one for each thread of the pool; they live as long as the process

// The blocks of a launch, dealt out one by one.
class BlockTask : public Task {
 public:
  explicit BlockTask(const LaunchShape& shape)
      : shape_(shape), blocks_(static_cast<uint64_t>(shape.grid.x) * shape.grid.y * shape.grid.z) {
    if (shape.schedule.order == Order::shuffled || shape.schedule.order == Order::greedy) shuffle();
  }

  uint64_t blocks() const { return blocks_; }
  bool failed() const { return failed_; }
  const Report& report() const { return report_; }

  void work(unsigned index) override {
    const SignalStack signal_stack;
    Worker& worker = *workers[index];
    if (!worker.prepare(shape_)) return out_of_memory();
    for (;;) {
      const uint64_t turn = next_.fetch_add(1, std::memory_order_relaxed);
      if (turn >= blocks_ || failed_.load(std::memory_order_relaxed)) return;
      if (!worker.run_block(number(turn))) return fail(worker.report);
    }
  }

 private:
  void shuffle() {
    for (uint64_t i = 0; i < blocks_; ++i) order_.push_back(static_cast<uint32_t>(i));
    Random random = {shape_.schedule.seed};
    for (size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1], order_[random.below(static_cast<unsigned>(i))]);
  }

  uint64_t number(uint64_t turn) const {
    if (!order_.empty()) return order_[turn];
    return shape_.schedule.order == Order::descending ? blocks_ - 1 - turn : turn;
  }

  void fail(const Report& report) {
    if (!failed_.exchange(true)) report_ = report;
  }

  void out_of_memory() {
    Report report = {};
    write_text(report.kind, sizeof(report.kind), "out of memory");
    write_text(report.text, sizeof(report.text), "no memory for the stacks or the shared memory of a block");
    fail(report);
  }

  const LaunchShape shape_;
  const uint64_t blocks_;
  std::vector<uint32_t> order_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> failed_{false};
  Report report_;
};

unsigned helpers_for(const LoadedKernel& kernel, uint64_t blocks) {
  uint64_t helpers = std::min<uint64_t>(blocks - 1, pool->threads() - 1);
  if (kernel.block_seconds > 0) {
    const double worth = kernel.block_seconds * static_cast<double>(blocks) / kSecondsPerHelper;
    helpers = std::min(helpers, static_cast<uint64_t>(worth));
  }
  return static_cast<unsigned>(helpers);
}

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void set_threads(unsigned threads) {
  pool = new Pool(threads);  // never deleted: its threads sleep until the process ends
  while (workers.size() < threads) workers.push_back(new Worker);
}

const char* wrong_shape(const LaunchShape& shape) {
  const uint64_t threads = static_cast<uint64_t>(shape.block.x) * shape.block.y * shape.block.z;
  if (threads == 0 || threads > kMaxThreads) return "a block has from 1 to 1024 threads";
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return "a grid has at least one block";
  return nullptr;
}

int refuse(const char* text, Report* report) {
  *report = {};
  write_text(report->kind, sizeof(report->kind), "invalid launch");
  write_text(report->text, sizeof(report->text), "%s", text);
  return 1;
}

// For dl_iterate_phdr: fills in *kernel and stops if the kernel is in this module.
int describe_module(dl_phdr_info* module, size_t, void* data) {
  LoadedKernel& kernel = *static_cast<LoadedKernel*>(data);
  const uintptr_t entry = reinterpret_cast<uintptr_t>(kernel.entry);
  bool contains = false;
  size_t tls_bytes = 0;
  uint64_t end = 0;
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& segment = module->dlpi_phdr[i];
    contains |= segment.p_type == PT_LOAD && entry - (module->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
    if (segment.p_type == PT_LOAD) end = module->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    if (segment.p_type == PT_TLS) tls_bytes = segment.p_memsz;
  }
  if (!contains) return 0;
  kernel.module_base = module->dlpi_addr;
  kernel.module_end = end;
  kernel.tls_module = tls_bytes ? module->dlpi_tls_modid : 0;
  kernel.tls_bytes = tls_bytes;
  return 1;
}

// A forked child has the pool, but none of its threads.
void restart_in_child() {
  if (pool) pool = new Pool(pool->threads());
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void simt_start(unsigned threads) {
  set_threads(threads);
  pthread_atfork(nullptr, nullptr, restart_in_child);
}

void simt_set_schedule(int order, uint64_t seed) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  schedule = {static_cast<Order>(order), seed};
}

// From the next launch on, checked kernels are checked by what `make` makes, or not at all if it is null.
void simt_use_checks(Checks* (*make)(Worker& worker)) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  make_checks = make;
}

// Fills in what the loader knows of the module that contains kernel->entry.
void simt_find_module(LoadedKernel* kernel) { dl_iterate_phdr(describe_module, kernel); }

// Runs a whole grid. Returns 0, or 1 with *report filled in.
int simt_launch(LoadedKernel* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                unsigned block_y, unsigned block_z, size_t dynamic_shared_bytes, void** arguments,
                Report* report) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  install_fault_handlers();
  const LaunchShape shape = {kernel->entry,
                             arguments,
                             {grid_x, grid_y, grid_z},
                             {block_x, block_y, block_z},
                             dynamic_shared_bytes,
                             kernel->tls_module,
                             kernel->tls_bytes,
                             schedule,
                             kernel->checked && make_checks,
                             kernel->arrays,
                             kernel->num_arrays,
                             kernel->module_base,
                             kernel->module_end};
  if (const char* wrong = wrong_shape(shape)) return refuse(wrong, report);
  BlockTask task(shape);
  const unsigned helpers = helpers_for(*kernel, task.blocks());
  const double start = seconds();
  pool->run(task, helpers);
  kernel->block_seconds = (seconds() - start) * (helpers + 1) / static_cast<double>(task.blocks());
  fflush(stdout);
  if (!task.failed()) return 0;
  *report = task.report();
  return 1;
}

}  // extern "C"
#pragma GCC visibility pop
