"use strict";

/**
 * Colours: an operation keeps its own in every panel, the ones that take most time come first; a sequence keeps its
 * own by its number, told apart without colour by number and pattern. Chosen to differ for colour-blind readers
 * (after Paul Tol's and Okabe and Ito's sets).
 */
class Palette {
  static OPERATIONS = [
    "#4477aa",
    "#ee7733",
    "#228833",
    "#aa3377",
    "#2aa198",
    "#ccaa33",
    "#66b3dd",
    "#cc3311",
    "#7a68b8",
    "#8c6d4a",
  ];
  static SEQUENCES = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8f8f8f"];
  static OWNERS = ["#4477aa", "#e69f00", "#228833", "#aa3377", "#66b3dd", "#8d97a6"];
  static BATCH = { prefill: "#e8a33d", decode: "#3d7ec9", waiting: "#98a3b3", preempted: "#c2417c" };
  static OTHER = "#8d97a6";
  static WAIT = "#c9a96a";

  constructor(trace) {
    this.trace = trace;
    this.times = Palette.times(trace);
    const ranked = [...this.times.entries()].sort((a, b) => b[1] - a[1]);
    this.ranked = ranked;
    this.byName = new Map(
      ranked.slice(0, Palette.OPERATIONS.length).map(([name], i) => [name, Palette.OPERATIONS[i]]),
    );
    this.byBody = new Map();
  }

  /** Time of each operation: on the device, or on the host where no device times are. */
  static times(trace) {
    const times = new Map();
    const add = (name, time) => times.set(name, (times.get(name) ?? 0) + time);
    for (let i = 0; i < trace.numActivities; i++) {
      if (trace.ranOrigin[i] < 0 || trace.isWork(trace.ranOrigin[i])) add(trace.ranTitle(i), trace.ranTime(i));
    }
    if (times.size === 0) {
      for (let row = 0; row < trace.numCalls; row++)
        if (trace.isWork(row)) add(trace.name(row), trace.duration[row]);
    }
    return times;
  }

  operation(name) {
    return this.byName.get(name) ?? Palette.OTHER;
  }

  call(row) {
    const body = this.trace.body[row];
    let colour = this.byBody.get(body);
    if (colour === undefined) {
      const waits = /Synchronize/.test(this.trace.field(row, "call"));
      colour = this.trace.isWork(row)
        ? this.operation(this.trace.name(row))
        : waits
          ? Palette.WAIT
          : Palette.OTHER;
      this.byBody.set(body, colour);
    }
    return colour;
  }

  ran(activity) {
    return this.operation(this.trace.ranTitle(activity));
  }

  static sequence(request) {
    return Palette.SEQUENCES[request % Palette.SEQUENCES.length];
  }

  /** 0: plain, 1: rising lines, 2: dots, 3: level lines. */
  static pattern(request) {
    return Math.floor(request / Palette.SEQUENCES.length) % 4;
  }

  /** Black or white, whichever is read better on a colour (by its relative luminance). */
  static ink(colour) {
    const channel = (at) => {
      const value = parseInt(colour.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    };
    const light = 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5);
    return light > 0.179 ? "#10151c" : "#ffffff";
  }

  /** A colour of the page's style, as canvas needs it. */
  static css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
}
