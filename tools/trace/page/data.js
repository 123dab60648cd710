"use strict";

/** Search in sorted arrays. */
const Sorted = {
  /** The first index from `from` on whose value is at least `value`. */
  lower(values, value, from = 0, to = values.length) {
    while (from < to) {
      const middle = (from + to) >> 1;
      if (values[middle] < value) from = middle + 1;
      else to = middle;
    }
    return from;
  },
};

/**
 * A trace as the page reads it: the columns that columns.py wrote, unpacked into arrays. Times are microseconds.
 * A *row* is the index of a call, an *activity* the index of something that ran on the device.
 */
class Trace {
  static async load(holder) {
    if (typeof DecompressionStream === "undefined")
      throw new Error("this browser is too old: it can't unpack gzip");
    const packed = atob(holder.textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Trace(JSON.parse(await new Response(stream).text()));
  }

  constructor(packed) {
    this.header = packed.header;
    this.resolution = packed.resolution; // microseconds: a shorter overlap on one stream is none
    this.values = packed.values;
    this.bodies = packed.bodies;
    this.notes = packed.notes;
    this.memory = packed.memory;
    this.sources = packed.sources;
    this.paths = new Paths();
    this.wordsOf = packed.words.map((sentences) => sentences.map((number) => packed.strings[number]));
    this.readCalls(packed.calls, packed.strings);
    this.readActivities(packed.activities, packed.strings);
    this.readActivitiesOfCalls();
    this.begin = this.numCalls ? this.start[0] : 0;
    this.end = Math.max(this.begin + 1, ...[this.stop, this.ranStop].map(Trace.largest));
  }

  readCalls(columns, strings) {
    this.numCalls = columns.n.length;
    this.n = Int32Array.from(Trace.sums(columns.n, 1));
    this.start = Trace.sums(columns.start, 1e-3);
    this.duration = Float64Array.from(columns.duration, (ns) => ns * 1e-3);
    this.stop = this.start.map((start, row) => start + this.duration[row]);
    this.path = Int32Array.from(columns.label, (label) => this.paths.number(strings[label]));
    this.body = Int32Array.from(columns.body);
  }

  readActivities(columns, strings) {
    this.numActivities = columns.call.length;
    this.ranCall = Int32Array.from(Trace.sums(columns.call, 1));
    this.ranStart = Trace.sums(columns.start, 1e-3);
    this.ranStop = this.ranStart.map((start, i) => start + columns.duration[i] * 1e-3);
    this.ranWhat = columns.what.map((number) => strings[number]);
    this.ranName = columns.name.map((number) => strings[number]);
    this.ranStream = columns.stream.map((number) => strings[number]);
    this.ranReplayed = Uint8Array.from(columns.replayed);
    this.ranOrigin = Int32Array.from(columns.of, (of, i) => (of ? this.rowOf(of) : this.ranCall[i]));
    this.ranPath = Int32Array.from(this.ranOrigin, (origin, i) => {
      const launch = this.path[this.ranCall[i]];
      return origin < 0 ? launch : this.paths.joined(launch, this.path[origin]);
    });
  }

  /** `firstRan[row]` to `firstRan[row + 1]`: the activities of a call, which lie together. */
  readActivitiesOfCalls() {
    this.firstRan = new Int32Array(this.numCalls + 1);
    for (const row of this.ranCall) this.firstRan[row + 1] += 1;
    for (let row = 0; row < this.numCalls; row++) this.firstRan[row + 1] += this.firstRan[row];
  }

  /** The running sums of `differences`, each times `unit`. */
  static sums(differences, unit) {
    const result = new Float64Array(differences.length);
    let sum = 0;
    for (let i = 0; i < differences.length; i++) {
      sum += differences[i];
      result[i] = sum * unit;
    }
    return result;
  }

  static largest(values) {
    let largest = 0;
    for (const value of values) largest = Math.max(largest, value);
    return largest;
  }

  /** The row of call number `n`; -1 where the trace does not hold it. */
  rowOf(n) {
    const row = Sorted.lower(this.n, n);
    return this.n[row] === n ? row : -1;
  }

  /** One field of a call's body. */
  field(row, name) {
    const value = this.bodies[this.body[row]][name];
    return value === undefined ? undefined : this.values[value];
  }

  /** What a call is called here: its operation, its kernel, or the API's own name. */
  name(row) {
    this.names ??= new Array(this.bodies.length);
    return (this.names[this.body[row]] ??=
      this.field(row, "op") ?? this.field(row, "kernel") ?? this.field(row, "call"));
  }

  /** Sentences on what a call does, and why the engine makes it. */
  words(row) {
    return this.wordsOf[this.body[row]];
  }

  /** Whether a call works on tensors: a kernel's launch or a matrix product. */
  isWork(row) {
    return this.field(row, "op") !== undefined || this.field(row, "kernel") !== undefined;
  }

  isCaptured(row) {
    return this.field(row, "captured") !== undefined;
  }

  /** The name of what ran: that of the call which asked for it; the device's own where a graph's call is unknown. */
  ranTitle(activity) {
    const origin = this.ranOrigin[activity];
    return origin >= 0 && this.field(origin, "graph") === undefined
      ? this.name(origin)
      : this.ranName[activity];
  }

  /** Where in a step an activity belongs: `layer 3 / attention`. */
  place(activity) {
    const parts = this.paths.parts(this.ranPath[activity]);
    return parts.slice(parts.length > 2 ? 2 : 0).join(" / ");
  }

  activitiesOf(row) {
    const found = [];
    for (let i = this.firstRan[row]; i < this.firstRan[row + 1]; i++) found.push(i);
    return found;
  }

  /** Where a captured call ran: the activities of graph launches that name it. */
  replaysOf(row) {
    const found = [];
    for (let i = 0; i < this.numActivities; i++)
      if (this.ranOrigin[i] === row && this.ranCall[i] !== row) found.push(i);
    return found;
  }

  ranTime(activity) {
    return this.ranStop[activity] - this.ranStart[activity];
  }

  /** The index of the note of a step, by the first part of a label: `step 12`; -1 for none. */
  noteOfStep(part) {
    this.noteByName ??= new Map(this.notes.map((note, index) => [note.name, index]));
    return this.noteByName.get(part) ?? -1;
  }
}
