"use strict";

/** The column on the right: whatever is selected, in full. */
class Inspector {
  constructor(box, state, history) {
    Object.assign(this, { box, state, history, trace: state.trace, launch: new LaunchView(state) });
    state.selected.follow(() => this.show());
    state.step.follow(() => ["page", "sequence"].includes(state.selected.value?.kind) && this.show());
    this.show();
  }

  show() {
    const it = this.state.selected.value;
    const views = {
      call: () => this.launch.show(it.row, -1),
      ran: () => this.launch.show(it.row, it.activity),
      node: () => this.node(it),
      step: () => this.step(this.trace.notes[it.index]),
      page: () => this.page(it.page),
      sequence: () => this.sequence(it.request),
    };
    this.box.replaceChildren(...(it === null ? [this.nothing()] : views[it.kind]()).filter(Boolean));
    this.box.scrollTop = 0;
    const title = this.box.querySelector("h2");
    if (it !== null && title) Dom.announce(`selected: ${title.textContent}`);
  }

  nothing() {
    const hint =
      "Select a bar, a row of the tree or a page to see all of it here: " +
      "a launch shows its parameters, its place on the roofline and its source.";
    return Dom.make(
      "div",
      {},
      Dom.make("h2", {}, "This trace"),
      this.whole(),
      Dom.make("p", { class: "hint" }, hint),
      this.operations(this.state.root),
    );
  }

  whole() {
    const { trace } = this;
    const { device, rates } = trace.header;
    return Dom.facts([
      ["calls", Format.count(trace.numCalls)],
      ["ran on the device", Format.count(trace.numActivities)],
      ["steps", Format.count(trace.notes.length)],
      ["took", Format.time(trace.end - trace.begin)],
      ["multiprocessors", device?.sm_count],
      ["memory", device?.total_memory ? Format.bytes(device.total_memory) : null],
      ["reads at most", rates ? Format.rate(rates.read_bytes, "B") : "not measured on this device"],
      ["computes at most", rates ? Format.rate(rates.flops, "FLOP") : null],
    ]);
  }

  /** A part of the tree: what it took, and which operations took most of it. */
  node({ node, start, stop }) {
    const path = Dom.make("p", { class: "path" }, node.parts.slice(0, -1).join(" / "));
    return [
      Dom.make("header", {}, Dom.make("h2", {}, node.name), path),
      Dom.facts([
        ["from", `${Format.time(start - this.trace.begin)} after the first call`],
        ["took", Format.time(stop - start)],
        ["host", `${Format.many(node.calls, "call")}, ${Format.time(node.host)}`],
        ["device", node.runs ? `${Format.many(node.runs, "run")}, ${Format.time(node.device)}` : null],
        ["moved", node.bytes ? Format.bytes(node.bytes) : null],
        ["computed", node.flops ? Format.scaled(node.flops, "FLOP") : null],
      ]),
      Dom.button("Zoom to it", () => this.state.view.frame(start, stop)),
      this.operations(node),
      this.stepOf(node.parts),
    ];
  }

  /** What took most time on the device below a node. */
  operations(node) {
    const rows = TreeModel.operations(node)
      .slice(0, 12)
      .map(([name, { runs, time }]) => [
        name,
        Format.count(runs),
        Format.time(time),
        Format.percent(time / node.device),
      ]);
    if (rows.length === 0) return null;
    const table = Dom.table(["operation", "runs", "time", "share"], rows, { class: "numbers" });
    return Dom.section("Most time on the device", table);
  }

  stepOf(parts) {
    const index = parts.length === 1 ? this.trace.noteOfStep(parts[0]) : -1;
    return index < 0 ? null : Dom.make("div", {}, this.step(this.trace.notes[index]).slice(1));
  }

  // --- steps, pages, sequences

  step(note) {
    const requests = [
      ...note.prefills.map(([request, start, stop]) => [request, `prefills positions ${start} to ${stop - 1}`]),
      ...note.decodes.map(([request, position]) => [request, `decodes position ${position}`]),
    ];
    return [
      Dom.make(
        "header",
        {},
        Dom.make("h2", {}, note.name),
        Dom.make("p", { class: "path" }, StepWords.batch(note)),
      ),
      Dom.facts([
        ["running", note.running],
        ["waiting", note.waiting],
        ["pages free", `${Format.count(note.free)} of ${Format.count(note.num_pages)}`],
      ]),
      StepWords.events(note).length
        ? Dom.section(
            "Pages",
            Dom.make(
              "ul",
              {},
              StepWords.events(note).map((text) => Dom.make("li", {}, text)),
            ),
          )
        : null,
      Dom.section(
        "Who ran",
        Dom.table(
          ["request", "what"],
          requests.map(([request, words]) => [this.request(request), words]),
        ),
      ),
    ];
  }

  request(request) {
    return Dom.make(
      "span",
      { class: "owner" },
      PagesPanel.swatch(request),
      Dom.button(`request ${request}`, () => this.state.selected.set({ kind: "sequence", request }), {
        class: "link",
      }),
    );
  }

  page(page) {
    const index = this.state.step.value;
    const note = this.trace.notes[index];
    const now = this.history.at(index);
    const holders = this.history.holders(now, note.page_size).get(page) ?? [];
    const size = note.page_size;
    const rows = holders.map(({ request, first, tokens }) => [
      this.request(request),
      `${first} to ${first + size - 1}`,
      tokens === size ? "all written" : `${tokens} of ${size} written`,
    ]);
    const copies = note.copies.filter(([source, target]) => source === page || target === page);
    return [
      Dom.make(
        "header",
        {},
        Dom.make("h2", {}, `page ${page}`),
        Dom.make("p", { class: "path" }, `in ${note.name}: ${this.pageWords(page, holders, now)}`),
      ),
      holders.length ? Dom.section("Held by", Dom.table(["sequence", "its positions", ""], rows)) : null,
      copies.length
        ? Dom.section(
            "Copy-on-write",
            ...copies.map(([source, target, tokens]) =>
              Dom.make(
                "p",
                {},
                `${Format.many(tokens, "token")} of page ${source} went to page ${target} before this step: ` +
                  `page ${source} had other holders, and one of them was about to write.`,
              ),
            ),
          )
        : null,
      Dom.make("p", { class: "muted" }, `Slots ${page * size} to ${page * size + size - 1} of the pool.`),
    ];
  }

  pageWords(page, holders, now) {
    if (holders.length > 1) return `shared by ${holders.length} sequences`;
    if (holders.length === 1) return "held by one sequence";
    return now.cached.has(page)
      ? "nobody holds it; a prompt that begins with its tokens takes it back"
      : "free";
  }

  addresses() {
    this.kvAddress ??= new KvAddress(this.trace);
    return this.kvAddress;
  }

  /** A block table, and where the keys and values of one position lie. */
  sequence(request) {
    const index = this.state.step.value;
    const note = this.trace.notes[index];
    const now = this.history.at(index);
    const size = note.page_size;
    const pages = now.tables.get(request) ?? [];
    const tokens = now.lengths.get(request) ?? 0;
    const holders = this.history.holders(now, size);
    const rows = pages.map((page, i) => [
      `${i * size} to ${i * size + size - 1}`,
      Dom.button(`page ${page}`, () => this.state.selected.set({ kind: "page", page }), { class: "link" }),
      PageHistory.tokens(now, request, i, size),
      holders.get(page).length > 1 ? `shared by ${holders.get(page).length}` : "",
    ]);
    return [
      Dom.make(
        "header",
        {},
        Dom.make("h2", {}, PagesPanel.swatch(request), ` request ${request}`),
        Dom.make(
          "p",
          { class: "path" },
          `in ${note.name}: ${Format.many(tokens, "token")} in ${Format.many(pages.length, "page")}`,
        ),
      ),
      pages.length
        ? this.addresses().section(pages, tokens, size)
        : Dom.make(
            "p",
            {},
            note.preempted.includes(request)
              ? "Preempted in this step: its pages were taken, and it will start anew."
              : "It holds no pages in this step.",
          ),
      pages.length
        ? Dom.section("Block table", Dom.table(["positions", "page", "tokens", ""], rows, { class: "numbers" }))
        : null,
    ];
  }
}
