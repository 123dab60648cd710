// The report of a block in which no thread can go on: who waits where.
#include <string>

#include "worker.h"

namespace {

// Threads that wait at one place, as ranges of their linear numbers.
struct Group {
  std::string what;
  simt::Place place;
  std::string ranges;
  unsigned first, last;

  void close_range() {
    if (!ranges.empty()) ranges += ", ";
    ranges += std::to_string(first);
    if (last != first) ranges += '-' + std::to_string(last);
  }

  void add(unsigned thread) {
    if (thread != last + 1) {
      close_range();
      first = thread;
    }
    last = thread;
  }
};

void add_thread(std::vector<Group>& groups, unsigned thread, const std::string& what, simt::Place place) {
  for (Group& group : groups) {
    if (same(group.place, place) && group.what == what) return group.add(thread);
  }
  groups.push_back({what, place, "", thread, thread});
}

std::string waits_in(const Warp& warp, const Fiber& fiber) {
  if (warp.at_barrier & fiber.bit()) return "__syncthreads";
  for (unsigned i = 0; i < warp.num_open; ++i) {
    const Rendezvous& open = warp.open[i];
    if (!(open.arrived & fiber.bit())) continue;
    char text[96];
    write_text(text, sizeof(text), "%s (mask 0x%08x)", open.collective->name, open.mask);
    return text;
  }
  return "?";
}

}  // namespace

void Worker::report_no_progress() {
  describe_waiting();
  abandon();
}

// Apart from abandon(), which leaves no destructor a chance to run.
void Worker::describe_waiting() {
  std::vector<Group> groups;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const Fiber& fiber = fibers_[i];
    const Warp& warp = *fiber.warp;
    if (warp.live & fiber.bit()) add_thread(groups, i, waits_in(warp, fiber), fiber.place);
  }
  begin_report(at_barrier_ ? "divergent barrier" : "deadlock", groups.front().place);
  std::string text = at_barrier_ ? "not all threads reach the same barrier" : "no thread can go on";
  const char* separator = ": ";
  for (Group& group : groups) {
    group.close_range();
    text += separator + ("threads " + group.ranges) + " wait in " + group.what + " at " + group.place.file +
            ":" + std::to_string(group.place.line);
    separator = "; ";
  }
  if (live_ < num_threads_) text += "; " + std::to_string(num_threads_ - live_) + " threads have ended";
  write_text(report.text, sizeof(report.text), "%s", text.c_str());
}
