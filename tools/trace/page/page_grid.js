"use strict";

/** The pool of KV pages as a grid of cells, one for each page, in the order of their numbers. */
class PageGrid {
  static GAP = 2;
  static BELOW = 30; // room for an arrow under the last row

  constructor(canvas, state, history) {
    Object.assign(this, {
      canvas,
      state,
      history,
      trace: state.trace,
      pages: [],
      focus: 0,
      patterns: new Map(),
    });
    this.surface = new Surface(canvas, (context) => this.draw(context));
    state.selected.follow(() => this.surface.redraw());
    state.theme.follow(() => this.surface.redraw());
    canvas.addEventListener("click", (event) => this.click(event));
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => Tooltip.hide());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.surface.redraw());
    canvas.addEventListener("blur", () => this.surface.redraw());
  }

  /** Which pages are cells. */
  choose(pages) {
    this.pages = pages;
    this.place = new Map(pages.map((page, i) => [page, i]));
    this.focus = Math.min(this.focus, Math.max(0, pages.length - 1));
    this.layout();
  }

  /** The largest cells with which all fit into the box; where even small ones don't, the box scrolls. */
  layout() {
    const box = this.canvas.parentElement;
    const width = box.clientWidth - 14;
    const height = box.clientHeight - 12;
    if (width <= 0) return;
    this.size = 8;
    for (let size = 64; size > 8; size -= 2) {
      if (Math.ceil(this.pages.length / Math.floor(width / size)) * size + PageGrid.BELOW <= height) {
        this.size = size;
        break;
      }
    }
    this.columns = Math.max(1, Math.floor(width / this.size));
    this.canvas.style.height = `${Math.ceil(this.pages.length / this.columns) * this.size + PageGrid.BELOW}px`;
    this.surface.redraw();
  }

  /** Show the pool as it stands in a step. */
  show(index) {
    this.note = this.history.notes[index];
    this.now = this.history.at(index);
    this.holders = this.history.holders(this.now, this.note.page_size);
    this.before = this.history.holders(this.history.at(index - 1), this.note.page_size);
    this.surface.redraw();
  }

  corner(i) {
    return [3 + (i % this.columns) * this.size, 3 + Math.floor(i / this.columns) * this.size];
  }

  draw(context) {
    if (!this.now || !this.columns) return;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const style = {
      line: Palette.css("--line"),
      text: Palette.css("--text"),
      muted: Palette.css("--muted"),
      accent: Palette.css("--accent"),
    };
    this.pages.forEach((page, i) => this.cell(context, page, ...this.corner(i), style));
    this.note.copies.forEach(([source, target]) => this.copy(context, source, target, style));
    this.outlines(context, style);
    context.textAlign = "start";
  }

  cell(context, page, x, y, style) {
    const size = this.size - PageGrid.GAP;
    const holders = this.holders.get(page);
    if (holders) this.held(context, holders, x, y, size);
    else if (this.now.cached.has(page)) this.cached(context, x, y, size, style);
    context.lineWidth = 1;
    context.strokeStyle = style.line;
    context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
    if (!holders && this.before.has(page)) this.left(context, x, y, size, style);
    if (holders && !this.before.has(page)) this.mark(context, x, y, size, style.text);
    if (size >= 34) this.number(context, page, x, y, size, holders ? "#10151c" : style.muted);
  }

  /** A slice for each holder; what has no tokens yet is pale. */
  held(context, holders, x, y, size) {
    const width = size / Math.min(holders.length, 6);
    holders.slice(0, 6).forEach(({ request, tokens }, i) => {
      const full = Math.round((size * tokens) / this.note.page_size);
      context.globalAlpha = 0.25;
      context.fillStyle = Palette.sequence(request);
      context.fillRect(x + i * width, y, width, size);
      context.globalAlpha = 1;
      context.fillStyle = this.pattern(context, request);
      context.fillRect(x + i * width, y + size - full, width, full);
    });
    if (size < 18) return;
    const text = holders.length > 1 ? `×${holders.length}` : `${holders[0].request}`;
    context.font = `600 ${size >= 30 ? 13 : 10}px ui-sans-serif, system-ui, sans-serif`;
    this.plate(context, text, x + size / 2, y + size / 2 + (size >= 34 ? 4 : 0));
  }

  /** Text that is read over any pattern. */
  plate(context, text, x, y) {
    const width = context.measureText(text).width + 6;
    context.fillStyle = "rgba(255, 255, 255, 0.86)";
    context.fillRect(x - width / 2, y - 8, width, 15);
    context.fillStyle = "#10151c";
    context.fillText(text, x, y);
  }

  number(context, page, x, y, size, colour) {
    context.font = "9px ui-sans-serif, system-ui, sans-serif";
    const held = this.holders.has(page);
    if (held) {
      context.fillStyle = "rgba(255, 255, 255, 0.7)";
      context.fillRect(x + 1, y + 1, 6 + 5 * String(page).length, 10);
    }
    context.fillStyle = colour;
    context.textAlign = "left";
    context.fillText(String(page), x + 3, y + 6.5);
    context.textAlign = "center";
  }

  /** Nobody holds it, but its contents can be found: grey lines. */
  cached(context, x, y, size, { muted }) {
    context.fillStyle = this.hatch(context, muted);
    context.fillRect(x, y, size, size);
  }

  /** Let go of in this step. */
  left(context, x, y, size, { text }) {
    context.setLineDash([3, 2]);
    context.strokeStyle = text;
    context.strokeRect(x + 1, y + 1, size - 2, size - 2);
    context.setLineDash([]);
  }

  /** Given out in this step: a corner. */
  mark(context, x, y, size, colour) {
    const side = Math.max(4, size / 4);
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(x + size, y);
    context.lineTo(x + size - side, y);
    context.lineTo(x + size, y + side);
    context.fill();
  }

  /** An arrow from below the source to below the target. */
  copy(context, source, target, { accent, text }) {
    if (!this.place.has(source) || !this.place.has(target)) return;
    const size = this.size - PageGrid.GAP;
    const [x, y] = this.corner(this.place.get(source));
    const [endX, endY] = this.corner(this.place.get(target));
    const from = x + size / 2;
    const to = endX + size / 2;
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.strokeRect(endX, endY, size, size);
    context.strokeStyle = context.fillStyle = text;
    context.beginPath();
    context.moveTo(from, y + size - 3);
    context.bezierCurveTo(from, y + size + 26, to, endY + size + 30, to, endY + size + 7);
    context.stroke();
    context.beginPath();
    context.moveTo(to, endY + size);
    context.lineTo(to - 5, endY + size + 8);
    context.lineTo(to + 5, endY + size + 8);
    context.fill();
  }

  /** Around what is selected, and around the cell that the keys stand on. */
  outlines(context, { text, accent }) {
    const it = this.state.selected.value;
    const size = this.size;
    const around = (page, colour, width) => {
      if (!this.place.has(page)) return;
      const [x, y] = this.corner(this.place.get(page));
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(x - 1, y - 1, size, size);
    };
    if (it?.kind === "page") around(it.page, text, 3);
    if (it?.kind === "sequence")
      for (const page of this.now.tables.get(it.request) ?? []) around(page, text, 3);
    if (document.activeElement === this.canvas) around(this.pages[this.focus], accent, 2);
  }

  /** A colour with its pattern. */
  pattern(context, request) {
    const kind = Palette.pattern(request);
    const colour = Palette.sequence(request);
    const key = `${kind}${colour}`;
    if (kind === 0) return colour;
    if (!this.patterns.has(key))
      this.patterns.set(
        key,
        context.createPattern(PageGrid.tile(kind, colour, "rgba(0, 0, 0, 0.45)"), "repeat"),
      );
    return this.patterns.get(key);
  }

  hatch(context, colour) {
    if (!this.patterns.has(colour))
      this.patterns.set(colour, context.createPattern(PageGrid.tile(1, null, colour), "repeat"));
    return this.patterns.get(colour);
  }

  /** A small square that repeats: rising lines (1), dots (2), level lines (3). */
  static tile(kind, ground, ink) {
    const tile = Dom.make("canvas", { width: 6, height: 6 });
    const context = tile.getContext("2d");
    if (ground) {
      context.fillStyle = ground;
      context.fillRect(0, 0, 6, 6);
    }
    context.fillStyle = context.strokeStyle = ink;
    if (kind === 2) context.fillRect(2, 2, 2, 2);
    else if (kind === 3) context.fillRect(0, 2, 6, 1);
    else {
      context.beginPath();
      for (const shift of [-6, 0, 6]) {
        context.moveTo(shift - 1, 7);
        context.lineTo(shift + 7, -1);
      }
      context.stroke();
    }
    return tile;
  }

  // --- hands and keys

  pageAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - 3) / this.size);
    const row = Math.floor((event.clientY - box.top - 3) / this.size);
    return column >= 0 && column < this.columns ? row * this.columns + column : -1;
  }

  click(event) {
    const i = this.pageAt(event);
    if (this.pages[i] === undefined) return;
    this.focus = i;
    this.state.selected.set({ kind: "page", page: this.pages[i] });
  }

  hover(event) {
    const page = this.pages[this.pageAt(event)];
    if (page === undefined || !this.now) return Tooltip.hide();
    Tooltip.show(event, `page ${page}`, this.words(page));
  }

  /** What there is to say of a page in this step. */
  words(page) {
    const words = (this.holders.get(page) ?? []).map(({ request, first, tokens }) =>
      tokens
        ? `request ${request}: positions ${first} to ${first + tokens - 1}`
        : `request ${request}: nothing written yet`,
    );
    for (const [source, target, tokens] of this.note.copies) {
      if (source === page)
        words.push(`${Format.many(tokens, "token")} copied to page ${target}: somebody writes, others hold it`);
      if (target === page)
        words.push(`${Format.many(tokens, "token")} copied from page ${source} (copy-on-write)`);
    }
    if (words.length) return words;
    const left = this.before.has(page) ? ["let go of in this step"] : [];
    return this.now.cached.has(page)
      ? [...left, "nobody holds it; its contents can still be found"]
      : [...left, "free"];
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    if (event.key in moves)
      this.focus = Math.max(0, Math.min(this.pages.length - 1, this.focus + moves[event.key]));
    else if (event.key === "Enter") this.state.selected.set({ kind: "page", page: this.pages[this.focus] });
    else return;
    event.preventDefault();
    event.stopPropagation();
    Dom.announce(`page ${this.pages[this.focus]}: ${this.words(this.pages[this.focus]).join("; ")}`);
    this.surface.redraw();
  }
}
