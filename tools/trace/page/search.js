"use strict";

/** Finds calls whose texts have all words that were typed: name, label, buffers, parameters, Python line. */
class Search {
  constructor(input, output, state) {
    Object.assign(this, { input, output, state, trace: state.trace });
    input.addEventListener("input", () => this.find());
    input.addEventListener("keydown", (event) => this.key(event));
  }

  /** What is searched in, for each body and each label once. */
  static text(value) {
    if (value === null || typeof value !== "object") return String(value);
    return Object.entries(value).map(([name, item]) => `${name}=${Search.text(item)}`).join(" ");
  }

  texts() {
    this.known ??= this.trace.bodies.map((body) => Object.values(body).map((value) => Search.text(this.trace.values[value])).join(" ").toLowerCase());
    return this.known;
  }

  find() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return this.clear();
    const bodies = words.map((word) => this.texts().map((text) => text.includes(word)));
    const paths = words.map((word) => this.trace.paths.texts.map((text) => text.toLowerCase().includes(word)));
    const rows = [];
    for (let row = 0; row < this.trace.numCalls; row++) {
      if (words.every((_, i) => bodies[i][this.trace.body[row]] || paths[i][this.trace.path[row]])) rows.push(row);
    }
    this.output.textContent = rows.length ? Format.many(rows.length, "call") : "nothing found";
    this.state.matches.set(rows);
  }

  clear() {
    this.output.textContent = "";
    this.state.matches.set(null);
  }

  /** Enter: the next call that matches; with Shift, the one before. */
  key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.onnext?.(event.shiftKey ? -1 : 1);
      const rows = this.state.matches.value, it = this.state.selected.value;
      if (rows?.length && it?.row !== undefined) this.output.textContent = `${Sorted.lower(rows, it.row) + 1} of ${Format.many(rows.length, "call")}`;
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.clear();
      this.input.blur();
    }
  }
}
