"use strict";

/** What several panels follow: tell all when it changes. */
class Shared {
  constructor(value) {
    this.value = value;
    this.followers = [];
  }

  follow(follower) {
    this.followers.push(follower);
  }

  set(value) {
    this.value = value;
    for (const follower of this.followers) follower(value);
  }
}

/** The part of the time that the timeline shows: `from` to `to`, inside `begin` to `end`, in microseconds. */
class View {
  constructor(begin, end) {
    const margin = (end - begin) * 0.01;
    Object.assign(this, { begin: begin - margin, end: end + margin });
    this.range = new Shared(null);
    this.all();
  }

  get from() {
    return this.range.value.from;
  }

  get to() {
    return this.range.value.to;
  }

  get width() {
    return this.to - this.from;
  }

  /** Show this range, no smaller than 50 ns, moved inside the trace. */
  show(from, to) {
    const width = Math.min(Math.max(to - from, 0.05), this.end - this.begin);
    const middle = (from + to) / 2;
    const begin = Math.min(Math.max(middle - width / 2, this.begin), this.end - width);
    this.range.set({ from: begin, to: begin + width });
  }

  all() {
    this.show(this.begin, this.end);
  }

  /** A factor below 1 shows less time; `at` keeps its place on the screen. */
  zoom(factor, at = (this.from + this.to) / 2) {
    this.show(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  pan(time) {
    this.show(this.from + time, this.to + time);
  }

  /** Show a bar with room around it. */
  frame(start, stop) {
    const room = Math.max(stop - start, 0.05) * 0.25;
    this.show(start - room, stop + room);
  }

  /** Bring a bar into sight without changing the zoom, unless it is in sight already. */
  reveal(start, stop) {
    if (start < this.to && stop > this.from && stop - start < this.width * 3) return;
    const middle = (start + stop) / 2;
    this.show(middle - this.width / 2, middle + this.width / 2);
  }
}

/** What is selected, and the step that the panels of steps show. */
class State {
  constructor(trace) {
    this.trace = trace;
    this.root = TreeModel.of(trace);
    this.view = new View(trace.begin, trace.end);
    this.selected = new Shared(null); // {kind, ...}: call, ran, node, step, page or sequence
    this.step = new Shared(0); // index of a note
    this.matches = new Shared(null); // rows that a search found, in order; null: nobody searches
    this.theme = new Shared(null);
  }

  selectCall(row) {
    this.followStep(this.trace.path[row]);
    this.selected.set({ kind: "call", row });
  }

  selectRan(activity) {
    this.followStep(this.trace.ranPath[activity]);
    this.selected.set({ kind: "ran", row: this.trace.ranCall[activity], activity });
  }

  /** A node of the tree, or one stretch of it in time. */
  selectNode(node, start = node.start, stop = node.stop) {
    const index = this.trace.noteOfStep(node.parts[0]);
    if (index >= 0) this.showStep(index);
    this.selected.set({ kind: "node", node, start, stop });
  }

  followStep(path) {
    const index = this.trace.noteOfStep(this.trace.paths.parts(path)[0]);
    if (index >= 0) this.showStep(index);
  }

  showStep(index) {
    const last = this.trace.notes.length - 1;
    const bounded = Math.max(0, Math.min(last, index));
    if (bounded !== this.step.value) this.step.set(bounded);
  }

  /** The time that what is selected takes: {start, stop}, or null. */
  selectedTime() {
    const it = this.selected.value;
    const trace = this.trace;
    if (it === null) return null;
    if (it.kind === "node") return { start: it.start, stop: it.stop };
    if (it.kind === "ran") return { start: trace.ranStart[it.activity], stop: trace.ranStop[it.activity] };
    if (it.kind === "call") return { start: trace.start[it.row], stop: trace.stop[it.row] };
    return null;
  }
}
