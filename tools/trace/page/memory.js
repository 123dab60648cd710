"use strict";

/** Device memory over time by owner, from the allocations and frees of the trace. */
class MemoryPanel {
  static LEFT = 70;
  static BOTTOM = 22;

  constructor(box, state) {
    Object.assign(this, { box, state, trace: state.trace, byTime: true });
    const { call } = this.trace.memory;
    if (call.length === 0) {
      box.append(
        Dom.empty(
          "This trace holds no allocation",
          "Memory is told from the allocations and frees that were traced: " +
            "the filters of this trace left them out, or there were none.",
        ),
      );
      return;
    }
    this.sum();
    this.build();
  }

  /** After each change: what each owner holds, and all together. */
  sum() {
    const { call, owner, bytes, owners } = this.trace.memory;
    const held = owners.map(() => 0);
    this.held = call.map((_, i) => {
      held[owner[i]] += bytes[i];
      return [...held];
    });
    this.total = this.held.map((amounts) => amounts.reduce((a, b) => a + b, 0));
    this.time = call.map((row) => this.trace.start[row]);
    this.peak = this.total.reduce((best, total, i) => (total > this.total[best] ? i : best), 0);
  }

  build() {
    const { state } = this;
    this.canvas = Dom.make("canvas", {
      role: "img",
      "aria-label": this.words(),
      onclick: (event) => this.state.selectCall(this.trace.memory.call[this.at(event)]),
      onpointermove: (event) => this.hover(event),
      onpointerleave: () => Tooltip.hide(),
    });
    const axis = Dom.make("input", {
      type: "checkbox",
      checked: false,
      onchange: () => {
        this.byTime = !axis.checked;
        this.surface.redraw();
      },
    });
    this.box.append(
      Dom.make(
        "div",
        { class: "toolbar" },
        Dom.make("strong", {}, this.words()),
        Dom.make("label", { class: "check" }, axis, "one column for each change, whenever it was"),
      ),
      Dom.make(
        "div",
        { class: "split" },
        Dom.make("div", { class: "chart-box fill" }, this.canvas),
        Dom.make("div", { class: "owners" }, this.owners(), this.largest()),
      ),
    );
    this.surface = new Surface(this.canvas, (context, width, height) => this.draw(context, width, height));
    for (const shared of [state.theme, state.selected]) shared.follow(() => this.surface.redraw());
  }

  words() {
    const when = Format.time(this.time[this.peak] - this.trace.begin);
    return `High-water mark ${Format.bytes(this.total[this.peak])}, ${when} after the first call`;
  }

  owners() {
    const { owners } = this.trace.memory;
    const now = this.held[this.held.length - 1];
    const peak = this.held[this.peak];
    const name = (text, i) => {
      const swatch = Dom.make("i", { class: "swatch" });
      swatch.style.background = Palette.OWNERS[i];
      return Dom.make("span", { class: "owner" }, swatch, text);
    };
    const rows = owners.map((text, i) => [
      name(text, i),
      Format.bytes(peak[i]),
      Format.percent(peak[i] / Math.max(1, this.total[this.peak])),
      Format.bytes(now[i]),
    ]);
    return Dom.table(["owner", "at the peak", "share", "at the end"], rows, { class: "numbers" });
  }

  /** The largest buffers, each at its allocation. */
  largest() {
    const { call, bytes } = this.trace.memory;
    const top = call
      .map((row, i) => [row, bytes[i]])
      .filter(([, size]) => size > 0)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 10);
    const rows = top.map(([row, size]) => [
      Dom.button(this.trace.field(row, "buffer"), () => this.state.selectCall(row), { class: "link" }),
      Format.bytes(size),
    ]);
    return Dom.table(["largest buffers", "size"], rows, { class: "numbers" });
  }

  /** Where change i begins, as a share of the width. */
  share(i) {
    if (!this.byTime) return i / this.total.length;
    const { begin, end } = this.trace;
    return i >= this.total.length ? 1 : (this.time[i] - begin) / (end - begin);
  }

  draw(context, width, height) {
    const plot = width - MemoryPanel.LEFT - 8;
    const floor = height - MemoryPanel.BOTTOM;
    const scale = (floor - 14) / Math.max(1, this.total[this.peak]);
    const x = (i) => MemoryPanel.LEFT + this.share(i) * plot;
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    context.textBaseline = "middle";
    let base = this.total.map(() => 0);
    this.trace.memory.owners.forEach((_, owner) => {
      const top = base.map((low, i) => low + this.held[i][owner]);
      this.area(context, base, top, x, floor, scale, Palette.OWNERS[owner]);
      base = top;
    });
    this.drawPeak(context, width, floor, scale);
    this.drawAxis(context, plot, floor);
  }

  /** Times, or the numbers of changes, along the bottom. */
  drawAxis(context, plot, floor) {
    const whole = this.byTime ? this.trace.end - this.trace.begin : this.total.length;
    const step = Ruler.step(whole / (plot / 90));
    context.fillStyle = Palette.css("--muted");
    for (let at = 0; at <= whole * 0.95; at += step) {
      const text = this.byTime ? Ruler.label(at, step) : `change ${at}`;
      context.fillText(text, MemoryPanel.LEFT + (at / whole) * plot, floor + 12);
    }
  }

  /** Steps from the base up to the top, left to right, and back along the base. */
  area(context, base, top, x, floor, scale, colour) {
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(x(0), floor - base[0] * scale);
    top.forEach((value, i) => {
      context.lineTo(x(i), floor - value * scale);
      context.lineTo(x(i + 1), floor - value * scale);
    });
    for (let i = base.length - 1; i >= 0; i--) {
      context.lineTo(x(i + 1), floor - base[i] * scale);
      context.lineTo(x(i), floor - base[i] * scale);
    }
    context.fill();
  }

  drawPeak(context, width, floor, scale) {
    const y = Math.round(floor - this.total[this.peak] * scale) + 0.5;
    context.strokeStyle = context.fillStyle = Palette.css("--text");
    context.lineWidth = 1;
    context.setLineDash([4, 3]);
    context.strokeRect(MemoryPanel.LEFT, y, width - MemoryPanel.LEFT - 8, 0);
    context.setLineDash([]);
    context.fillText(Format.bytes(this.total[this.peak]), 2, y + 1);
    context.fillStyle = Palette.css("--muted");
    context.fillText("0", 2, floor);
  }

  /** The last change before the pointer. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - MemoryPanel.LEFT) / (box.width - MemoryPanel.LEFT - 8);
    let i = 0;
    while (i + 1 < this.total.length && this.share(i + 1) <= share) i += 1;
    return i;
  }

  hover(event) {
    const i = this.at(event);
    const { call, bytes, owners } = this.trace.memory;
    const row = call[i];
    const held = owners.map((name, owner) =>
      this.held[i][owner] ? `${name}: ${Format.bytes(this.held[i][owner])}` : null,
    );
    Tooltip.show(event, Format.bytes(this.total[i]), [
      ...held,
      `last: ${bytes[i] < 0 ? "−" : "+"}${Format.bytes(Math.abs(bytes[i]))} ${this.trace.field(row, "buffer")}`,
    ]);
  }
}
