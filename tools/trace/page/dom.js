"use strict";

/**
 * Elements without HTML text: whatever comes from the trace becomes a text node or an attribute, never markup.
 */
const Dom = {
  /** `attributes` whose names begin with `on` are listeners; children are nodes, texts, or null for nothing. */
  make(name, attributes = {}, ...children) {
    return Dom.fill(document.createElement(name), attributes, children);
  },

  /** The same for SVG. */
  svg(name, attributes = {}, ...children) {
    return Dom.fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  },

  fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  },

  id(name) {
    return document.getElementById(name);
  },

  /** A table of two columns; rows whose value is null are left out. */
  facts(rows) {
    const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return Dom.make(
      "dl",
      { class: "facts" },
      shown.map(([name, value]) => [Dom.make("dt", {}, name), Dom.make("dd", {}, value)]).flat(),
    );
  },

  /** A table with a header; cells are texts or nodes. */
  table(headings, rows, attributes = {}) {
    const head = Dom.make(
      "tr",
      {},
      headings.map((text) => Dom.make("th", { scope: "col" }, text)),
    );
    const body = rows.map((row) =>
      Dom.make(
        "tr",
        {},
        row.map((cell) => Dom.make("td", {}, cell)),
      ),
    );
    return Dom.make("table", attributes, Dom.make("thead", {}, head), Dom.make("tbody", {}, body));
  },

  section(title, ...children) {
    return Dom.make("section", {}, Dom.make("h3", {}, title), ...children);
  },

  button(text, onclick, attributes = {}) {
    return Dom.make("button", { type: "button", onclick, ...attributes }, text);
  },

  empty(title, text) {
    return Dom.make(
      "div",
      { class: "empty" },
      Dom.make("p", {}, Dom.make("strong", {}, title)),
      Dom.make("p", {}, text),
    );
  },

  announce(text) {
    Dom.id("announcement").textContent = text;
  },
};

/** A canvas whose size follows its box, sharp on any screen; `draw(context, width, height)` in CSS pixels. */
class Surface {
  constructor(canvas, draw) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.draw = draw;
    this.pending = false;
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  /** Draw at the next frame; many changes until then are one drawing. */
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.now();
    });
  }

  now() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (width === 0 || height === 0) return;
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.draw(this.context, width, height);
  }
}

/** The one tooltip: it follows the pointer, and stays inside the window. */
const Tooltip = {
  show(event, title, rows = []) {
    const box = Dom.id("tooltip");
    box.replaceChildren(
      Dom.make("strong", {}, title),
      ...rows.filter(Boolean).map((row) => Dom.make("div", {}, row)),
    );
    box.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
    const below = event.clientY + 18 + box.offsetHeight < window.innerHeight;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${below ? event.clientY + 18 : Math.max(4, event.clientY - box.offsetHeight - 10)}px`;
  },

  hide() {
    Dom.id("tooltip").hidden = true;
  },
};
