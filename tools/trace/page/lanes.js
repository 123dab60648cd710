"use strict";

/**
 * A row of bars on the timeline, sorted by start and never overlapping: `items[i]` is what bar i stands for. By kind:
 * "label", the first row of a stretch of calls; "call", its row; "ran", an activity; "place", the first of a stretch.
 */
class Lane {
  constructor(kind, title, start, stop, items) {
    this.kind = kind;
    this.title = title;
    this.start = Float64Array.from(start);
    this.stop = Float64Array.from(stop);
    this.items = Int32Array.from(items);
    this.matches = null; // while searching: how many of the bars before each one match
  }

  get size() {
    return this.items.length;
  }

  /** The first bar that ends after `time`. */
  firstAfter(time) {
    return Sorted.lower(this.stop, time);
  }

  /** The bar at `time`, or the nearest one within `slack` of it; -1 for none. */
  at(time, slack) {
    const next = this.firstAfter(time);
    let best = -1;
    let distance = slack;
    for (const i of [next - 1, next]) {
      if (i < 0 || i >= this.size) continue;
      const away = Math.max(this.start[i] - time, time - this.stop[i], 0);
      if (away <= distance) [best, distance] = [i, away];
    }
    return best;
  }

  /** Whether this lane has the bar of `item`, which begins at `start`. */
  has(item, start) {
    let i = Sorted.lower(this.start, start);
    while (i < this.size && this.start[i] === start && this.items[i] !== item) i += 1;
    return this.items[i] === item;
  }

  /** How many bars start within [from, to). */
  count(from, to) {
    return Sorted.lower(this.start, to) - Sorted.lower(this.start, from);
  }

  /** Remember which bars match a search, so that "does any of these?" is one subtraction. */
  search(test) {
    this.matches = new Int32Array(this.size + 1);
    for (let i = 0; i < this.size; i++) this.matches[i + 1] = this.matches[i] + (test(this.items[i]) ? 1 : 0);
  }

  anyMatch(from, to) {
    return this.matches === null || this.matches[to] > this.matches[from];
  }
}

/** The lanes of a trace. */
const Lanes = {
  of(trace) {
    return [...Lanes.labels(trace), ...Lanes.calls(trace), ...Lanes.streams(trace)];
  },

  /** One lane for each depth of the labels: a bar is a run of calls that share the label down to there. */
  labels(trace) {
    const lanes = [];
    const open = [];
    let path = -1;
    const close = (depth, end) => {
      while (open.length > depth) {
        const bar = open.pop();
        (lanes[open.length] ??= []).push({ start: trace.start[bar], stop: end, item: bar });
      }
    };
    for (let row = 0, end = 0; row < trace.numCalls; end = Math.max(end, trace.stop[row]), row++) {
      if (trace.path[row] === path) continue;
      const parts = trace.paths.parts(trace.path[row]);
      const before = path < 0 ? [] : trace.paths.parts(path);
      let same = 0;
      while (same < parts.length && parts[same] === before[same]) same += 1;
      close(same, end);
      while (open.length < parts.length) open.push(row);
      path = trace.path[row];
    }
    close(0, trace.numCalls ? trace.end : 0);
    return lanes.map((bars, depth) =>
      Lanes.lane("label", ["step", "phase", "layer", "part"][depth] ?? "", bars),
    );
  },

  calls(trace) {
    const bars = Array.from(trace.start, (start, row) => ({ start, stop: trace.stop[row], item: row }));
    return Lanes.apart("call", "host calls", bars, 1e-3); // the times are whole nanoseconds
  },

  streams(trace) {
    const byStream = new Map();
    for (let i = 0; i < trace.numActivities; i++) {
      const bar = { start: trace.ranStart[i], stop: trace.ranStop[i], item: i };
      const bars = byStream.get(trace.ranStream[i]);
      if (bars) bars.push(bar);
      else byStream.set(trace.ranStream[i], [bar]);
    }
    return [...byStream.keys()].sort().flatMap((stream) => {
      const bars = byStream.get(stream);
      const lanes = Lanes.apart("ran", stream, bars, trace.resolution); // sorts the bars
      const isLabelled = bars.some(({ item }) => trace.paths.text(trace.ranPath[item]));
      return isLabelled ? [...lanes, Lanes.places(trace, bars)] : lanes;
    });
  },

  /** Which layer the device is at: a bar is a run of activities of one label. */
  places(trace, bars) {
    const places = [];
    for (const { start, stop, item } of bars) {
      const last = places[places.length - 1];
      if (last && trace.ranPath[last.item] === trace.ranPath[item]) last.stop = Math.max(last.stop, stop);
      else {
        if (last) last.stop = Math.min(last.stop, start);
        places.push({ start, stop, item });
      }
    }
    return Lanes.lane("place", "device at", places);
  },

  /**
   * Calls of several threads overlap, as do kernels that start before the last one ends: a lane has room for one.
   * Where they overlap by less than `resolution`, the first ends where the second begins.
   */
  apart(kind, title, bars, resolution) {
    const rooms = [];
    for (const bar of bars.sort((a, b) => a.start - b.start)) {
      const room = rooms.find((others) => others[others.length - 1].stop - bar.start < resolution);
      if (!room) rooms.push([bar]);
      else {
        const last = room[room.length - 1];
        last.stop = Math.min(last.stop, bar.start);
        room.push(bar);
      }
    }
    return rooms.map((others, number) => Lanes.lane(kind, number ? "" : title, others));
  },

  lane(kind, title, bars) {
    return new Lane(
      kind,
      title,
      bars.map((bar) => bar.start),
      bars.map((bar) => bar.stop),
      bars.map((bar) => bar.item),
    );
  },
};
