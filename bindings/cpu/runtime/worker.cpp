#include "worker.h"

#include <cstring>

#include "turns.h"

__thread simt::Thread* simt_thread;

Worker::Worker() {
  for (unsigned i = 0; i < kMaxWarps; ++i) {
    warps_[i].index = i;
    warps_[i].fibers = &fibers_[i * kWarpLanes];
  }
}

bool Worker::prepare(const LaunchShape& shape) {
  launch_ = shape;
  shape_block(shape.block);
  grid = shape.grid;
  if (!stacks.reserve()) return false;
  if (!shared.prepare(shape.dynamic_shared_bytes, shape.tls_module, shape.tls_bytes)) return false;
  dynamic_shared = shared.dynamic();
  prepare_checks();
  return true;
}

void Worker::prepare_checks() {
  if (launch_.checked && !own_checks_) own_checks_ = make_checks(*this);
  checks = launch_.checked ? own_checks_ : nullptr;
  if (checks) checks->begin_launch(launch_);
}

// Gives each fiber its threadIdx; x runs fastest.
void Worker::shape_block(simt::Index3 shape) {
  if (num_threads_ && dim.x == shape.x && dim.y == shape.y && dim.z == shape.z) return;
  dim = shape;
  num_threads_ = dim.x * dim.y * dim.z;
  num_warps_ = (num_threads_ + kWarpLanes - 1) / kWarpLanes;
  for (unsigned i = 0; i < num_threads_; ++i) {
    Fiber& fiber = fibers_[i];
    fiber.index = {i % dim.x, i / dim.x % dim.y, i / dim.x / dim.y};
    fiber.lane = i % kWarpLanes;
    fiber.warp = &warps_[i / kWarpLanes];
    fiber.block = this;
  }
}

void Worker::reset_block(uint64_t number) {
  index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
           static_cast<unsigned>(number / grid.x / grid.y)};
  random_ = {launch_.schedule.seed ^ (number + 1) * 0xd1342543de82ef95u};
  live_ = num_threads_;
  at_barrier_ = votes_ = 0;
  barrier_diverged_ = failed_ = false;
  warp_ = nullptr;
  warp_turns_.restart();
  ready_warps_ = kFullWarp >> (kMaxWarps - num_warps_);
  for (unsigned i = 0; i < num_warps_; ++i) {
    Warp& warp = warps_[i];
    warp.live = warp.ready = kFullWarp;
    warp.started = warp.at_barrier = warp.num_open = 0;
  }
  Warp& last = warps_[num_warps_ - 1];
  last.live = last.ready = kFullWarp >> (num_warps_ * kWarpLanes - num_threads_);
  shared.poison();
  if (checks) checks->begin_block(num_warps_);
}

bool Worker::run_block(uint64_t number) {
  reset_block(number);
  switch_to(next(), &scheduler_);
  if (copies_used_) {  // what nobody waited for does not outlive the block
    for (unsigned i = 0; i < num_threads_; ++i) {
      copies_[i].pending.clear();
      copies_[i].groups = 0;
    }
    copies_used_ = false;
  }
  return !failed_;
}

// ---- Taking turns. ----------------------------------------------------------------------------------------

void Worker::start(Fiber* fiber) {
  fiber->stack = stacks.take();
  if (!fiber->stack) fail("out of memory", *fiber, {}, "no memory for another thread's stack");
  fiber->context = simt_prepare_fiber(fiber->stack, kStackBytes, run_fibers);
  fiber->warp->started |= fiber->bit();
}

// Lets every other fiber that can run have a turn first: whoever is polled may be any of them.
void Worker::give_way(Fiber* self) {
  const uint32_t later_lanes = self->warp->ready & ~1u << self->lane;
  const uint32_t later_warps = ready_warps_ & ~1u << self->warp->index;
  if (!later_lanes) warp_ = &warps_[__builtin_ctz(later_warps ? later_warps : ready_warps_)];
  Fiber* other = warp_->fibers + __builtin_ctz(later_lanes ? later_lanes : warp_->ready);
  if (other != self) switch_to(other, &self->context);
}

// The body of every fiber: runs one thread of the block, then, on the same stack, any that has not started
// yet.
void Worker::run_fibers() {
  for (;;) {
    Fiber* self = this_fiber();
    Worker& worker = worker_of(*self);
    worker.launch_.entry(worker.launch_.arguments);
    Fiber* other = worker.retire(self);
    if (other && !(other->warp->started & other->bit())) {
      other->warp->started |= other->bit();
      other->stack = self->stack;
      simt_thread = other;
      continue;
    }
    worker.stacks.give_back(self->stack);
    simt_thread = other;
    void* never_resumed;
    simt_switch(&never_resumed, other ? other->context : worker.scheduler_);
  }
}

// Takes an ended thread out of the block: whoever waited only for it can go on. Returns the fiber to run
// next, or null when the block is done.
Fiber* Worker::retire(Fiber* self) {
  Warp& warp = *self->warp;
  warp.live &= ~self->bit();
  clear_ready(*self);
  --live_;
  for (unsigned i = warp.num_open; i-- > 0;) {
    if ((warp.open[i].mask & warp.live) == warp.open[i].arrived) complete(warp, warp.open[i]);
  }
  if (live_ == 0) return nullptr;
  if (at_barrier_ == live_) release_block();
  Fiber* other = next();
  if (!other) report_no_progress();
  return other;
}

// ---- Barriers and collectives. ----------------------------------------------------------------------------

int Worker::block_barrier(Fiber* self, bool predicate, simt::Place place) {
  self->place = place;
  self->warp->at_barrier |= self->bit();
  clear_ready(*self);
  if (at_barrier_++ == 0) barrier_place_ = place;
  barrier_diverged_ |= !same(place, barrier_place_);
  votes_ += predicate;
  if (at_barrier_ == live_) release_block();
  wait(self);
  return barrier_result_;
}

void Worker::release_block() {
  if (barrier_diverged_) report_no_progress();
  if (checks) checks->block_barrier();
  barrier_result_ = static_cast<int>(votes_);
  at_barrier_ = votes_ = 0;
  for (unsigned i = 0; i < num_warps_; ++i) {
    Warp& warp = warps_[i];
    warp.ready |= warp.at_barrier;
    warp.at_barrier = 0;
    if (warp.ready) ready_warps_ |= 1u << i;
  }
  warp_ = nullptr;
  warp_turns_.restart();
}

// ---- Ends that were not meant. ----------------------------------------------------------------------------

void Worker::begin_report(const char* kind, simt::Place place) {
  memset(&report, 0, sizeof(report));
  write_text(report.kind, sizeof(report.kind), "%s", kind);
  write_text(report.file, sizeof(report.file), "%s", place.file ? place.file : "");
  report.line = place.line;
  report.block = index;
  report.address = fault_address;
  report.program_counter = fault_program_counter;
}

void Worker::fail(const char* kind, const Fiber& fiber, simt::Place place, const char* text) {
  begin_report(kind, place);
  report.has_thread = 1;
  report.thread = fiber.index;
  write_text(report.text, sizeof(report.text), "%s", text);
  abandon();
}

void Worker::fail_access(const char* kind, const Fiber& fiber, const char* text, const AccessReport& access) {
  begin_report(kind, {});
  report.has_thread = 1;
  report.thread = fiber.index;
  report.access = access;
  write_text(report.text, sizeof(report.text), "%s", text);
  abandon();
}

void Worker::fail_mask(const Fiber& self, uint32_t mask, const Collective& collective, simt::Place place) {
  char text[128];
  write_text(text, sizeof(text), "lane %u calls %s with mask 0x%08x, which does not name it", self.lane,
             collective.name, mask);
  fail("lane not in mask", self, place, text);
}

void Worker::abandon() {
  stacks.take_all_back();
  fault_address = fault_program_counter = 0;
  failed_ = true;
  simt_thread = nullptr;
  void* never_resumed;
  simt_switch(&never_resumed, scheduler_);
  __builtin_unreachable();
}
