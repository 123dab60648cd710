// Worker: one OS thread's share of the device. It runs one block at a time, each thread of the block as a
// fiber.
//
// A waiting fiber picks the next one itself and switches straight to it. A fiber that ends hands its stack to
// the next one that has not started, so that a kernel without barriers is a plain loop over its threads.
#pragma once

#include <vector>

#include "checks.h"
#include "fiber.h"
#include "report.h"
#include "schedule.h"
#include "shared_memory.h"
#include "simt_runtime.h"
#include "stacks.h"

constexpr unsigned kWarpLanes = 32;
constexpr unsigned kMaxWarps = 32;
constexpr unsigned kMaxThreads = kWarpLanes * kMaxWarps;
constexpr uint32_t kFullWarp = ~0u;

struct Warp;
struct Worker;

// One cache line: a switch touches little else.
struct alignas(64) Fiber : simt::Thread {
  Warp* warp;
  void* context;  // where it waits; meaningful once it has started
  char* stack;
  simt::Place place;  // of the barrier, collective or copy that it called the runtime for

  uint32_t bit() const { return 1u << lane; }
};

// What the lanes of a warp do together. `compute` runs once, when the last lane has arrived: requests[i] is
// what lane i brought, for all `lanes` that take part; it reads their inputs and writes their results.
struct Collective {
  const char* name;
  bool same_place;  // must all lanes come from one line of the source?
  void (*compute)(Worker& worker, void* const* requests, uint32_t lanes);
};

// A collective that some lanes have reached and others have not.
struct Rendezvous {
  const Collective* collective;
  simt::Place place;
  uint32_t mask;
  uint32_t arrived;
  void* requests[kWarpLanes];
};

struct Warp {
  uint32_t live;        // lanes that have not ended
  uint32_t started;     // lanes that have begun
  uint32_t ready;       // lanes that can run: new ones, and those whose wait is over
  uint32_t at_barrier;  // lanes that wait for the block
  unsigned index;
  unsigned num_open;
  Fiber* fibers;  // the 32 of this warp
  Rendezvous open[kWarpLanes];
};

// The cp.async copies of one thread that have begun and have not been waited for.
struct AsyncCopies {
  struct Copy {
    void* target;
    const void* source;  // null: zeros
    simt::Place place;
    int group;
  };
  std::vector<Copy> pending;
  int groups = 0;  // how many the thread has committed
};

struct LaunchShape {
  void (*entry)(void** arguments);
  void** arguments;
  simt::Index3 grid, block;
  size_t dynamic_shared_bytes;
  size_t tls_module, tls_bytes;  // the static shared memory of the kernel's module
  Schedule schedule;
  bool checked;  // look at every access
  const SharedArray* arrays;
  int num_arrays;
  uint64_t module_base, module_end;
};

struct Worker : simt::Block {
  Worker();

  // Takes on a launch. False if the system has no memory for its shared memory.
  bool prepare(const LaunchShape& shape);
  // Runs one block to its end. False if it failed, and then `report` says why.
  bool run_block(uint64_t number);

  // ---- Called on a fiber.
  void meet(Fiber* self, uint32_t mask, const Collective& collective, void* request, simt::Place place);
  int block_barrier(Fiber* self, bool predicate, simt::Place place);
  void give_way(Fiber* self);
  AsyncCopies& copies_of(const Fiber& fiber) {
    copies_used_ = true;
    return copies_[&fiber - fibers_];
  }
  // Drops the whole block and goes back to the OS thread's own stack.
  [[noreturn]] void abandon();
  [[noreturn]] void fail(const char* kind, const Fiber& fiber, simt::Place place, const char* text);
  [[noreturn, gnu::visibility("default")]] void fail_access(const char* kind, const Fiber& fiber,
                                                            const char* text, const AccessReport& access);

  Report report;
  StackPool stacks;
  SharedMemory shared;
  uint64_t fault_address = 0, fault_program_counter = 0;  // set by who finds a fault, for the report
  Checks* checks = nullptr;                               // of a checked launch, else null

  const Fiber* fibers() const { return fibers_; }

 private:
  static void run_fibers();
  void prepare_checks();
  void shape_block(simt::Index3 dim);
  void reset_block(uint64_t number);
  Fiber* next();
  void start(Fiber* fiber);
  void switch_to(Fiber* fiber, void** save);
  void wait(Fiber* self);
  Fiber* retire(Fiber* self);
  void clear_ready(const Fiber& fiber);
  void release_block();
  Rendezvous& rendezvous_for(Warp& warp, uint32_t mask, const Collective& collective, simt::Place place);
  void complete(Warp& warp, Rendezvous& rendezvous);
  void begin_report(const char* kind, simt::Place place);
  void describe_waiting();
  [[noreturn]] void fail_mask(const Fiber& self, uint32_t mask, const Collective& collective,
                              simt::Place place);
  [[noreturn]] void report_no_progress();

  Checks* own_checks_ = nullptr;  // made for the first checked launch, and kept
  LaunchShape launch_;
  Random random_;
  unsigned num_threads_ = 0, num_warps_ = 0;

  unsigned live_, at_barrier_, votes_;
  int barrier_result_;
  simt::Place barrier_place_;
  bool barrier_diverged_, failed_;
  bool copies_used_ = false;

  Warp* warp_;  // whose turn it is, or null
  uint32_t ready_warps_;
  Turns warp_turns_, lane_turns_;

  void* scheduler_;  // context of the OS thread itself
  Fiber fibers_[kMaxThreads];
  Warp warps_[kMaxWarps];
  AsyncCopies copies_[kMaxThreads];
};

// The fiber that runs on this OS thread, or null outside a kernel.
inline Fiber* this_fiber() { return static_cast<Fiber*>(simt_thread); }

// A worker is the block that its fibers belong to.
inline Worker& worker_of(const Fiber& fiber) {
  return const_cast<Worker&>(static_cast<const Worker&>(*fiber.block));
}

inline bool same(simt::Place a, simt::Place b) { return a.line == b.line && a.file == b.file; }
