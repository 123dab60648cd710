"use strict";

/** Who ran in which step, a column each: decodes, prefilled tokens and who waits above; below, a row a request. */
class BatchPanel {
  static LEFT = 96;
  static STRIPS = [
    ["decodes", "decode", "decoding"],
    ["tokens", "prefill", "prefill tokens"],
    ["waiting", "waiting", "waiting"],
  ];
  static STRIP = 46;

  constructor(box, state, history) {
    Object.assign(this, { box, state, history, notes: history.notes });
    if (this.notes.length === 0) {
      box.append(
        Dom.empty(
          "This trace has no steps",
          "Batches are made by the engine's scheduler, and what ran here made no step.",
        ),
      );
      return;
    }
    this.steps = this.notes.map((note) => ({
      decodes: note.decodes.length,
      waiting: note.waiting,
      tokens: note.prefills.reduce((sum, [, start, stop]) => sum + stop - start, 0),
    }));
    this.rows = BatchPanel.runs(history).slice(0, 1000);
    this.build();
  }

  /** For each request its runs of equal steps: [{kind, from, to}], `to` not included. */
  static runs(history) {
    const rows = new Map(history.requests().map((request) => [request, []]));
    const put = (request, kind, step) => {
      const runs = rows.get(request);
      const last = runs?.[runs.length - 1];
      if (last && last.kind === kind && last.to === step) last.to += 1;
      else runs?.push({ kind, from: step, to: step + 1 });
    };
    history.notes.forEach((note, step) => {
      for (const [request] of note.prefills) put(request, "prefill", step);
      for (const [request] of note.decodes) put(request, "decode", step);
      for (const request of note.preempted) put(request, "preempted", step);
    });
    return [...rows].map(([request, runs]) => ({ request, runs: runs.concat(BatchPanel.gaps(runs)) }));
  }

  /** Between a request's runs it waited. */
  static gaps(runs) {
    return runs
      .slice(1)
      .map((run, i) => ({ kind: "waiting", from: runs[i].to, to: run.from }))
      .filter(({ from, to }) => from < to);
  }

  build() {
    const { state } = this;
    this.canvas = Dom.make("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": "Steps; left and right choose one, Enter selects it",
      onclick: (event) => this.click(event),
      onkeydown: (event) => this.key(event),
      onpointermove: (event) => this.hover(event),
      onpointerleave: () => Tooltip.hide(),
    });
    const legend = [
      ["decode", "decodes: one token each"],
      ["prefill", "prefills"],
      ["waiting", "waits for a seat or for pages"],
      ["preempted", "preempted"],
    ];
    this.box.append(
      Dom.make(
        "ul",
        { class: "legend" },
        legend.map(([kind, text]) => Dom.make("li", {}, Dom.make("i", { class: `sample ${kind}` }), text)),
      ),
      Dom.make("div", { class: "chart-box" }, this.canvas),
    );
    const room = Math.max(3, Math.min(16, Math.floor(240 / this.rows.length)));
    this.row = room;
    this.top = BatchPanel.STRIPS.length * BatchPanel.STRIP + 8;
    this.canvas.style.height = `${this.top + this.rows.length * room + 26}px`;
    this.surface = new Surface(this.canvas, (context, width) => this.draw(context, width));
    for (const shared of [state.step, state.selected, state.theme]) shared.follow(() => this.surface.redraw());
  }

  /** The width of a step; at most 36 pixels, and as small as it must be. */
  column(width) {
    return Math.min(36, (width - BatchPanel.LEFT - 8) / this.notes.length);
  }

  draw(context, width) {
    const column = this.column(width);
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    context.textBaseline = "middle";
    this.drawStep(context, column);
    BatchPanel.STRIPS.forEach((strip, i) =>
      this.drawStrip(context, column, i * BatchPanel.STRIP + 4, ...strip),
    );
    this.rows.forEach((row, i) => this.drawRow(context, column, row, this.top + i * this.row));
    this.drawNumbers(context, column);
  }

  drawStep(context, column) {
    context.fillStyle = Palette.css("--band");
    context.fillRect(
      BatchPanel.LEFT + this.state.step.value * column,
      0,
      Math.max(2, column),
      this.top + this.rows.length * this.row,
    );
  }

  drawStrip(context, column, y, name, kind, title) {
    const most = Math.max(
        1,
        this.steps.reduce((max, step) => Math.max(max, step[name]), 0),
      ),
      height = BatchPanel.STRIP - 10;
    context.fillStyle = Palette.css("--muted");
    context.fillText(title, 2, y + height / 2 - 6);
    context.fillText(
      `at most ${Format.count(this.steps.reduce((max, step) => Math.max(max, step[name]), 0))}`,
      2,
      y + height / 2 + 8,
    );
    context.fillStyle = Palette.css("--grid");
    context.fillRect(BatchPanel.LEFT, y + height, this.notes.length * column, 1);
    context.fillStyle = Palette.BATCH[kind];
    this.eachColumn(column, (from, to, x, wide) => {
      let value = 0;
      for (let i = from; i < to; i++) value = Math.max(value, this.steps[i][name]);
      const tall = (value / most) * height;
      if (value) context.fillRect(x, y + height - tall, wide, tall);
    });
  }

  /** Steps narrower than a pixel are drawn together, the largest of them. */
  eachColumn(column, draw) {
    const together = Math.max(1, Math.ceil(1 / column));
    const wide = Math.max(1, together * column - (column > 4 ? 1 : 0));
    for (let from = 0; from < this.notes.length; from += together) {
      draw(from, Math.min(this.notes.length, from + together), BatchPanel.LEFT + from * column, wide);
    }
  }

  drawRow(context, column, { request, runs }, y) {
    const tall = Math.max(2, this.row - 2);
    const it = this.state.selected.value;
    const chosen = it?.kind === "sequence" && it.request === request;
    if (this.row >= 9) {
      context.fillStyle = Palette.css(chosen ? "--text" : "--muted");
      context.fillText(`request ${request}`, 2, y + tall / 2);
    }
    for (const { kind, from, to } of runs) {
      context.fillStyle = Palette.BATCH[kind];
      const x = BatchPanel.LEFT + from * column;
      const wide = Math.max(1, (to - from) * column - (column > 4 ? 1 : 0));
      if (kind === "preempted" || kind === "waiting") context.fillRect(x, y + tall / 2 - 1, wide, 3);
      else context.fillRect(x, y, wide, tall);
    }
  }

  drawNumbers(context, column) {
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((n) => n * column >= 40) ?? 10000;
    context.fillStyle = Palette.css("--muted");
    for (let i = 0; i < this.notes.length; i += every) {
      context.fillText(
        `${this.notes[i].step}`,
        BatchPanel.LEFT + i * column + 1,
        this.top + this.rows.length * this.row + 12,
      );
    }
    context.fillText("step", 2, this.top + this.rows.length * this.row + 12);
  }

  // --- hands and keys

  /** The step and the request under the pointer: [index, row or undefined]; index -1 outside. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left - BatchPanel.LEFT;
    const index = x < 0 ? -1 : Math.floor(x / this.column(box.width));
    return [
      index < this.notes.length ? index : -1,
      this.rows[Math.floor((event.clientY - box.top - this.top) / this.row)],
    ];
  }

  click(event) {
    const [index, row] = this.at(event);
    if (index < 0) return;
    this.state.showStep(index);
    this.state.selected.set(row ? { kind: "sequence", request: row.request } : { kind: "step", index });
  }

  hover(event) {
    const [index] = this.at(event);
    if (index < 0) return Tooltip.hide();
    const note = this.notes[index];
    Tooltip.show(event, note.name, [
      StepWords.batch(note),
      `${note.waiting} waiting, ${note.running} running`,
      ...StepWords.events(note),
    ]);
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.state.showStep(this.state.step.value + moves[event.key]);
    else if (event.key === "Enter") this.state.selected.set({ kind: "step", index: this.state.step.value });
    else return;
    event.preventDefault();
    event.stopPropagation();
    const note = this.notes[this.state.step.value];
    Dom.announce(`${note.name}: ${StepWords.batch(note)}`);
  }
}
