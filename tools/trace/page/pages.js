"use strict";

/** The panel of KV pages: a slider over steps, the grid, and who runs. */
class PagesPanel {
  constructor(box, state, history) {
    Object.assign(this, { box, state, history, trace: state.trace, timer: null });
    if (history.notes.length === 0) {
      box.append(
        Dom.empty(
          "This trace has no steps",
          "KV pages belong to steps of the engine, and what ran here was none: " +
            "a single kernel, or a run that ended before its first step.",
        ),
      );
      return;
    }
    this.build();
    state.step.follow(() => this.show());
    state.selected.follow(() => this.drawSequences());
    this.show();
  }

  build() {
    this.events = Dom.make("p", { class: "events", "aria-live": "polite" });
    this.canvas = Dom.make("canvas", {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "grid of pages",
      "aria-label": "KV pages; arrows move, Enter selects",
    });
    this.sequences = Dom.make("div", { class: "sequences", role: "group", "aria-label": "Sequences" });
    const gridBox = Dom.make("div", { class: "grid-box" }, this.canvas);
    const split = Dom.make("div", { class: "split" }, gridBox, this.sequences);
    this.box.append(this.toolbar(), this.events, split, PagesPanel.legend());
    this.grid = new PageGrid(this.canvas, this.state, this.history);
    this.choose();
    new ResizeObserver(() => this.grid.layout()).observe(gridBox);
  }

  /** Play, the slider with a step to either side, and which pages to show. */
  toolbar() {
    const step = (by) => this.state.showStep(this.state.step.value + by);
    const move = () => this.state.showStep(Number(this.slider.value));
    const last = this.history.notes.length - 1;
    const range = { type: "range", min: 0, max: last, value: 0, "aria-label": "Step", oninput: move };
    this.slider = Dom.make("input", range);
    this.playing = Dom.button("▶ Play", () => this.play(), { class: "play" });
    this.caption = Dom.make("output", { class: "caption" });
    const before = Dom.button("‹", () => step(-1), { "aria-label": "Step before" });
    const next = Dom.button("›", () => step(1), { "aria-label": "Next step" });
    const parts = [this.playing, before, this.slider, next, this.caption, this.filter()];
    return Dom.make("div", { class: "toolbar" }, parts);
  }

  filter() {
    this.used = this.history.everUsed();
    const all = this.history.numPages;
    const checked = this.used.length < all;
    this.onlyUsed = Dom.make("input", { type: "checkbox", checked, onchange: () => this.choose() });
    const text = `only the ${Format.count(this.used.length)} pages ever used, of ${Format.count(all)}`;
    return Dom.make("label", { class: "check" }, this.onlyUsed, text);
  }

  static legend() {
    const item = (name, text) => Dom.make("li", {}, Dom.make("i", { class: `sample ${name}` }), text);
    return Dom.make(
      "ul",
      { class: "legend" },
      item("held", "held by one sequence, filled as far as it has tokens"),
      item("shared", "shared by several"),
      item("cached", "free, contents can be found"),
      item("fresh", "given out in this step"),
      item("gone", "let go of in this step"),
      item("copied", "copy-on-write"),
    );
  }

  choose() {
    const all = this.history.numPages;
    this.grid.choose(this.onlyUsed.checked ? this.used : Array.from({ length: all }, (_, page) => page));
  }

  show() {
    const index = this.state.step.value;
    const note = this.history.notes[index];
    this.slider.value = index;
    this.slider.setAttribute("aria-valuetext", note.name);
    const free = Format.many(note.free, "page");
    this.caption.textContent = `${note.name} · ${StepWords.batch(note)} · ${free} free · ${note.waiting} waiting`;
    const events = StepWords.events(note);
    this.events.replaceChildren(...events.map((text) => Dom.make("span", {}, text)));
    this.grid.show(index);
    this.drawSequences();
  }

  /** Who holds pages now, and who lost them in this step. */
  drawSequences() {
    const { now, note } = this.grid;
    const it = this.state.selected.value;
    const requests = [...now.tables.keys()].sort((a, b) => a - b);
    const decodes = new Map(note.decodes);
    const prefills = new Map(note.prefills.map(([request, ...range]) => [request, range]));
    const doing = (request) => {
      if (decodes.has(request)) return `decodes at ${decodes.get(request)}`;
      if (prefills.has(request)) return `prefills ${prefills.get(request)[0]}–${prefills.get(request)[1] - 1}`;
      return "does not run";
    };
    const row = (request, words, pressed) =>
      Dom.make(
        "button",
        {
          type: "button",
          class: "sequence",
          "aria-pressed": String(pressed),
          onclick: () => this.state.selected.set({ kind: "sequence", request }),
        },
        PagesPanel.swatch(request),
        Dom.make("b", {}, `${request}`),
        Dom.make("span", {}, words),
      );
    this.sequences.replaceChildren(
      Dom.make("h3", {}, `${Format.many(requests.length, "sequence")} with pages`),
      ...requests.map((request) =>
        row(
          request,
          `${doing(request)} · ${Format.many(now.tables.get(request).length, "page")}`,
          it?.kind === "sequence" && it.request === request,
        ),
      ),
      ...note.preempted
        .filter((request) => !now.tables.has(request))
        .map((request) => row(request, "preempted: starts anew later", false)),
    );
  }

  static swatch(request) {
    const swatch = Dom.make("i", { class: `swatch pattern-${Palette.pattern(request)}` });
    swatch.style.backgroundColor = Palette.sequence(request);
    return swatch;
  }

  play() {
    const stop = () => {
      clearInterval(this.timer);
      this.timer = null;
      this.playing.textContent = "▶ Play";
    };
    if (this.timer !== null) return stop();
    const last = this.history.notes.length - 1;
    if (this.state.step.value === last) this.state.showStep(0);
    this.playing.textContent = "❚❚ Stop";
    this.timer = setInterval(
      () => (this.state.step.value < last ? this.state.showStep(this.state.step.value + 1) : stop()),
      450,
    );
  }
}
