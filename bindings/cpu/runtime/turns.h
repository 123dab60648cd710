// The hot path: whose turn it is, and meeting at a collective. Inline, so that each collective is one
// function: what it saves on a fiber's stack is written and read again at every switch.
#pragma once

#include "worker.h"

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

inline void Worker::clear_ready(const Fiber& fiber) {
  fiber.warp->ready &= ~fiber.bit();
  if (!fiber.warp->ready) ready_warps_ &= ~(1u << fiber.warp->index);
}

inline Rendezvous& Worker::rendezvous_for(Warp& warp, uint32_t mask, const Collective& collective,
                                          simt::Place place) {
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

inline void Worker::complete(Warp& warp, Rendezvous& rendezvous) {
  rendezvous.collective->compute(*this, rendezvous.requests, rendezvous.arrived);
  if (checks) checks->meet(warp.index, rendezvous.arrived);
  warp.ready |= rendezvous.arrived;
  ready_warps_ |= 1u << warp.index;
  const Rendezvous& last = warp.open[--warp.num_open];
  if (&rendezvous != &last) rendezvous = last;
  lane_turns_.restart();
}

[[gnu::always_inline]] inline void Worker::meet(Fiber* self, uint32_t mask, const Collective& collective,
                                                void* request, simt::Place place) {
  self->place = place;
  Warp& warp = *self->warp;
  if (!(mask & self->bit())) fail_mask(*self, mask, collective, place);
  Rendezvous& rendezvous = rendezvous_for(warp, mask, collective, place);
  rendezvous.requests[self->lane] = request;
  rendezvous.arrived |= self->bit();
  clear_ready(*self);
  if (rendezvous.arrived == (mask & warp.live)) complete(warp, rendezvous);
  wait(self);
}
