"use strict";

/** Everything about one call: what it was asked and where, what ran, how fast against the device, and the source. */
class LaunchView {
  constructor(state) {
    Object.assign(this, { state, trace: state.trace });
  }

  /** `activity`: the one that was clicked, or -1. */
  show(row, activity) {
    const { trace } = this;
    const origin = activity >= 0 && trace.ranOrigin[activity] >= 0 ? trace.ranOrigin[activity] : row;
    return [
      this.title(origin, row, activity),
      this.facts(origin, row, activity),
      this.words(origin),
      this.ran(origin, row),
      Product.section(trace, origin),
      this.parameters(origin),
      this.geometry(origin),
      this.defines(origin),
      this.roofline(origin, activity),
      this.source(origin),
      this.arguments(origin),
    ];
  }

  title(origin, row, activity) {
    const { trace } = this;
    const marks = [];
    const path = activity >= 0 ? trace.ranPath[activity] : trace.path[row];
    if (origin !== row) marks.push("inside a graph");
    if (trace.isCaptured(row)) marks.push("captured: recorded, did not run");
    return Dom.make(
      "header",
      {},
      Dom.make("h2", {}, trace.name(origin)),
      marks.map((text) => Dom.make("span", { class: "mark" }, text)),
      Dom.make("p", { class: "path" }, trace.paths.text(path) || "outside of steps"),
    );
  }

  words(origin) {
    const sentences = this.trace.words(origin);
    return Dom.section("What it does", ...sentences.map((text) => Dom.make("p", {}, text)));
  }

  facts(origin, row, activity) {
    const { trace } = this;
    const result = trace.field(row, "result");
    return Dom.facts([
      ["call", Dom.make("code", {}, `${trace.field(row, "call")} #${trace.n[row]}`)],
      ["captured by", origin === row ? null : this.link(origin)],
      ["result", result === "ok" ? null : Dom.make("strong", { class: "bad" }, result ?? "did not return")],
      ["from", Dom.make("code", {}, trace.field(origin, "site") ?? "")],
      ["at", `${Format.time(trace.start[row] - trace.begin)} after the first call`],
      ["host", Format.time(trace.duration[row])],
      ["device", this.deviceTime(row, activity)],
      ["stream", activity >= 0 ? trace.ranStream[activity] : trace.field(row, "stream")],
      ...this.graph(row),
      ...this.allocation(row),
      ...this.work(origin, activity),
    ]);
  }

  /** Of a graph's launch, and of a call that went into a graph. */
  graph(row) {
    const { trace } = this;
    if (trace.field(row, "graph") !== undefined)
      return [["graph", `launches graph ${trace.field(row, "graph")}`]];
    if (!trace.isCaptured(row)) return [];
    const runs = Format.many(trace.replaysOf(row).length, "run");
    return [["capture", `part of graph ${trace.field(row, "captured")}: ${runs} below`]];
  }

  allocation(row) {
    const { trace } = this;
    const nbytes = trace.field(row, "nbytes");
    if (nbytes === undefined) return [];
    return [
      ["buffer", Dom.make("code", {}, trace.field(row, "buffer") ?? "")],
      ["size", `${Format.bytes(nbytes)} (${Format.count(nbytes)} bytes)`],
    ];
  }

  deviceTime(row, activity) {
    const { trace } = this;
    const all = activity >= 0 ? [activity] : trace.activitiesOf(row);
    if (all.length === 0) return trace.isWork(row) && !trace.isCaptured(row) ? "not measured" : null;
    const total = all.reduce((sum, i) => sum + trace.ranTime(i), 0);
    return `${Format.time(total)}${all.some((i) => trace.ranReplayed[i]) ? " (replayed one by one)" : ""}`;
  }

  /** What was moved and computed, and at what rate. */
  work(origin, activity) {
    const { trace } = this;
    const bytes = trace.field(origin, "bytes");
    const flops = trace.field(origin, "flops");
    const seconds = this.seconds(origin, activity);
    const { rates } = trace.header;
    const rate = (amount, unit, limit) => {
      if (amount === undefined) return null;
      const whole = Format.scaled(amount, unit);
      if (!seconds || !amount) return whole;
      const share = limit ? `, ${Format.percent(amount / seconds / limit)} of what this device does` : "";
      return `${whole} at ${Format.rate(amount / seconds, unit)}${share}`;
    };
    return [
      ["moves", rate(bytes, "B", rates?.read_bytes)],
      ["computes", flops ? rate(flops, "FLOP", rates?.flops) : null],
    ];
  }

  /** Seconds on the device of one run of a call; 0 where it was not measured. */
  seconds(origin, activity) {
    const { trace } = this;
    const row = activity >= 0 ? trace.ranCall[activity] : origin;
    const own = trace.activitiesOf(row).filter((i) => trace.ranOrigin[i] === origin);
    return own.reduce((sum, i) => sum + trace.ranTime(i), 0) / 1e6;
  }

  /** What this call made the device do; of a graph, its kernels. */
  ran(origin, row) {
    const { trace } = this;
    const all = origin !== row ? [] : trace.isCaptured(row) ? trace.replaysOf(row) : trace.activitiesOf(row);
    if (all.length < 2 && !trace.isCaptured(row)) return null;
    const shown = all
      .slice(0, 400)
      .map((i) => [
        Dom.button(trace.ranTitle(i), () => this.state.selectRan(i), { class: "link" }),
        trace.isCaptured(row)
          ? (trace.paths.parts(trace.ranPath[i])[0] ?? "")
          : trace.paths.parts(trace.ranPath[i]).slice(2).join(" / "),
        Format.time(trace.ranTime(i)),
      ]);
    if (shown.length === 0) return null;
    const more =
      all.length > shown.length
        ? Dom.make("p", { class: "muted" }, `and ${all.length - shown.length} more`)
        : null;
    return Dom.section(
      `Ran on the device (${Format.count(all.length)})`,
      Dom.make("div", { class: "scroll" }, Dom.table(["what", "where", "time"], shown)),
      more,
    );
  }

  link(row) {
    return Dom.button(
      `${this.trace.field(row, "call")} #${this.trace.n[row]}`,
      () => this.state.selectCall(row),
      { class: "link" },
    );
  }

  /** A kernel's parameters by name; a tensor with its buffer, dtype and shape. */
  parameters(origin) {
    const { trace } = this;
    const params = trace.field(origin, "params");
    if (params === undefined) return null;
    const tensors = trace.field(origin, "tensors") ?? {};
    const roles = trace.field(origin, "roles") ?? {};
    const rows = Object.entries(params).map(([name, value]) => [
      Dom.make("code", {}, name),
      Dom.make("span", { class: `role ${roles[name] ?? ""}` }, roles[name] ?? ""),
      Dom.make("code", {}, LaunchView.breakable(tensors[name] ?? String(value))),
    ]);
    return Dom.section("Parameters", Dom.table(["name", "role", "value"], rows, { class: "parameters" }));
  }

  /** Buffer names break after dots and before the dtype, not in the middle of a word. */
  static breakable(text) {
    return text.replace(/([.:])(?=\w)/g, "$1\u200b");
  }

  geometry(origin) {
    const { trace } = this;
    const grid = trace.field(origin, "grid");
    const block = trace.field(origin, "block");
    if (grid === undefined) return null;
    const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
    const smem = trace.field(origin, "smem");
    const registers = trace.field(origin, "registers");
    return Dom.section(
      "Geometry",
      Dom.facts([
        ["grid", `${grid.join(" × ")} = ${Format.many(product(grid), "block")}`],
        ["block", `${block.join(" × ")} = ${Format.many(product(block), "thread")}`],
        ["shared memory", smem === undefined ? null : `${Format.count(smem)} bytes a block`],
        ["registers", registers ? `${registers} a thread` : "not told by this device"],
      ]),
    );
  }

  defines(origin) {
    const defines = this.trace.field(origin, "defines");
    if (!defines || Object.keys(defines).length === 0) return null;
    return Dom.section(
      "Compiled with",
      Dom.make(
        "div",
        { class: "chips" },
        Object.entries(defines).map(([name, value]) => Dom.make("code", {}, `${name}=${value}`)),
      ),
    );
  }

  // --- the roofline

  roofline(origin, activity) {
    const { trace } = this;
    const point = this.point(origin, this.seconds(origin, activity));
    if (trace.field(origin, "bytes") === undefined) return null;
    if (point === null) return this.noRoofline(origin);
    const { rates } = trace.header;
    const others = this.others(origin);
    const text = rates
      ? this.position(point, rates)
      : "The limits of this device are not known: no roof is drawn.";
    return Dom.section(
      "Roofline",
      new Roofline(rates, point, others).draw(text),
      Dom.make(
        "p",
        { class: "muted" },
        text,
        others.length ? ` Pale: ${Format.many(others.length, "other run")} of ${trace.name(origin)}.` : "",
      ),
    );
  }

  noRoofline(origin) {
    const { trace } = this;
    if (trace.isCaptured(origin)) return null;
    const why =
      trace.field(origin, "flops") === 0
        ? "It computes nothing, it only moves bytes: a roofline has no place for it."
        : "No device time, so no place on the roofline.";
    return Dom.section("Roofline", Dom.make("p", { class: "muted" }, why));
  }

  position({ intensity, speed }, rates) {
    const ridge = rates.flops / rates.read_bytes;
    const bound = intensity < ridge ? "memory" : "arithmetic";
    const limit = Math.min(rates.flops, intensity * rates.read_bytes);
    const share = Format.percent(speed / limit);
    return `${Format.digits(intensity)} FLOP for each byte: ${bound} is the limit, and it reaches ${share} of it.`;
  }

  point(origin, seconds) {
    const { trace } = this;
    const bytes = trace.field(origin, "bytes");
    const flops = trace.field(origin, "flops");
    return seconds && bytes && flops ? { intensity: flops / bytes, speed: flops / seconds } : null;
  }

  /** Up to 400 other runs of the same operation, evenly spread over the trace. */
  others(origin) {
    const { trace } = this;
    const name = trace.name(origin);
    this.runs ??= new Map();
    if (!this.runs.has(name)) this.runs.set(name, this.runsOf(name));
    const runs = this.runs.get(name);
    const every = Math.max(1, Math.ceil(runs.length / 400));
    return runs
      .filter((_, i) => i % every === 0)
      .map((i) => this.point(trace.ranOrigin[i], this.seconds(trace.ranOrigin[i], i)))
      .filter(Boolean);
  }

  runsOf(name) {
    const { trace } = this;
    const found = [];
    for (let i = 0; i < trace.numActivities; i++) {
      if (
        trace.ranOrigin[i] >= 0 &&
        trace.isWork(trace.ranOrigin[i]) &&
        trace.name(trace.ranOrigin[i]) === name
      )
        found.push(i);
    }
    return found;
  }

  // --- texts

  source(origin) {
    const { trace } = this;
    const source = trace.field(origin, "source");
    if (source === undefined) return null;
    const { files, includes } = trace.sources;
    if (files[source] === undefined) {
      return Dom.section(
        "Source",
        Dom.make("p", { class: "muted" }, `${source} was not on the machine that wrote this page.`),
      );
    }
    const box = Dom.make("div");
    const entry = trace.field(origin, "kernel") ?? "";
    const choose = Dom.make(
      "select",
      { "aria-label": "File", onchange: () => show(choose.value) },
      [source, ...(includes[source] ?? [])].map((name) => Dom.make("option", { value: name }, name)),
    );
    const show = (name) =>
      box.replaceChildren(Source.view(files[name], Source.entryLine(files[name], entry), `Source of ${name}`));
    show(source);
    return Dom.section(
      "Source",
      choose,
      box,
      Dom.make("p", { class: "muted" }, "As it was when this page was written."),
    );
  }

  /** The arguments of the driver call itself, under the API's own names. */
  arguments(origin) {
    const args = this.trace.field(origin, "args");
    if (!args || this.trace.field(origin, "sizes") !== undefined || Object.keys(args).length === 0) return null;
    const rows = Object.entries(args).map(([name, value]) => [
      Dom.make("code", {}, name),
      Dom.make("code", {}, LaunchView.breakable(String(value))),
    ]);
    return Dom.make(
      "details",
      { open: !this.trace.isWork(origin) },
      Dom.make("summary", {}, `${this.trace.field(origin, "call")}, argument by argument`),
      Dom.table(["argument", "value"], rows, { class: "arguments" }),
    );
  }
}
