#include "worker.h"

#include <cstring>

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
  return true;
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
}

bool Worker::run_block(uint64_t number) {
  reset_block(number);
  switch_to(next(), &scheduler_);
  if (copies_used_) {  // what nobody waited for does not outlive the block
    for (AsyncCopies& copies : copies_) copies = {};
    copies_used_ = false;
  }
  return !failed_;
}

AsyncCopies& Worker::copies_of(const Fiber& fiber) {
  copies_used_ = true;
  return copies_[&fiber - fibers_];
}

// ---- Taking turns. ---------------------------------------------------------------------------------------------------

// The fiber whose turn it is, or null if none can run.
inline Fiber* Worker::next() {
  const Order order = launch_.schedule.order;
  if (!warp_ || !warp_->ready || order == Order::shuffled) {
    if (!ready_warps_) return nullptr;
    warp_ = &warps_[warp_turns_.pick(ready_warps_, order, random_)];
    lane_turns_.restart();
  }
  return warp_->fibers + lane_turns_.pick(warp_->ready, order, random_);
}

void Worker::start(Fiber* fiber) {
  fiber->stack = stacks.take();
  if (!fiber->stack) fail("out of memory", *fiber, {}, "no memory for another thread's stack");
  fiber->context = simt_prepare_fiber(fiber->stack, kStackBytes, run_fibers);
  fiber->warp->started |= fiber->bit();
}

inline void Worker::switch_to(Fiber* fiber, void** save) {
  if (!(fiber->warp->started & fiber->bit())) start(fiber);
  simt_thread = fiber;
  simt_switch(save, fiber->context);
}

// Runs other fibers until this one can go on.
inline void Worker::wait(Fiber* self) {
  Fiber* other = next();
  if (!other) report_no_progress();
  if (other != self) switch_to(other, &self->context);
}

// Lets every other fiber that can run have a turn first: whoever is polled may be any of them.
void Worker::give_way(Fiber* self) {
  const uint32_t later_lanes = self->warp->ready & ~1u << self->lane;
  const uint32_t later_warps = ready_warps_ & ~1u << self->warp->index;
  if (!later_lanes) warp_ = &warps_[__builtin_ctz(later_warps ? later_warps : ready_warps_)];
  Fiber* other = warp_->fibers + __builtin_ctz(later_lanes ? later_lanes : warp_->ready);
  if (other != self) switch_to(other, &self->context);
}

// The body of every fiber: runs one thread of the block, then, on the same stack, any that has not started yet.
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

inline void Worker::clear_ready(const Fiber& fiber) {
  fiber.warp->ready &= ~fiber.bit();
  if (!fiber.warp->ready) ready_warps_ &= ~(1u << fiber.warp->index);
}

// Takes an ended thread out of the block: whoever waited only for it can go on. Returns the fiber to run next, or
// null when the block is done.
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

// ---- Barriers and collectives. ---------------------------------------------------------------------------------------

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

inline Rendezvous& Worker::rendezvous_for(Warp& warp, uint32_t mask, const Collective& collective, simt::Place place) {
  for (unsigned i = 0; i < warp.num_open; ++i) {
    Rendezvous& open = warp.open[i];
    const bool joins = open.mask == mask && open.collective == &collective;
    if (joins && (!collective.same_place || same(open.place, place))) return open;
  }
  Rendezvous& opened = warp.open[warp.num_open++];
  opened.collective = &collective;
  opened.place = place;
  opened.mask = mask;
  opened.arrived = 0;
  return opened;
}

void Worker::meet(Fiber* self, uint32_t mask, const Collective& collective, void* request, simt::Place place) {
  self->place = place;
  Warp& warp = *self->warp;
  if (!(mask & self->bit())) {
    char text[128];
    write_text(text, sizeof(text), "lane %u calls %s with mask 0x%08x, which does not name it", self->lane,
               collective.name, mask);
    fail("lane not in mask", *self, place, text);
  }
  Rendezvous& rendezvous = rendezvous_for(warp, mask, collective, place);
  rendezvous.requests[self->lane] = request;
  rendezvous.arrived |= self->bit();
  clear_ready(*self);
  if (rendezvous.arrived == (mask & warp.live)) complete(warp, rendezvous);
  wait(self);
}

inline void Worker::complete(Warp& warp, Rendezvous& rendezvous) {
  rendezvous.collective->compute(*this, rendezvous.requests, rendezvous.arrived);
  warp.ready |= rendezvous.arrived;
  ready_warps_ |= 1u << warp.index;
  const Rendezvous& last = warp.open[--warp.num_open];
  if (&rendezvous != &last) rendezvous = last;
  lane_turns_.restart();
}

// ---- Ends that were not meant. ---------------------------------------------------------------------------------------

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

void Worker::abandon() {
  stacks.take_all_back();
  accessing = {};
  fault_address = fault_program_counter = 0;
  failed_ = true;
  simt_thread = nullptr;
  void* never_resumed;
  simt_switch(&never_resumed, scheduler_);
  __builtin_unreachable();
}
