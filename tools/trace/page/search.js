"use strict";

/** Finds calls whose texts have all that was typed: name, label, buffers, parameters, line of Python. */
class Search {
  constructor(input, output, state) {
    Object.assign(this, { input, output, state, trace: state.trace });
    input.addEventListener("input", () => this.find());
    input.addEventListener("keydown", (event) => this.key(event));
  }

  /** What is searched in, for each body and each label once. */
  static text(value) {
    if (value === null || typeof value !== "object") return String(value);
    return Object.entries(value)
      .map(([name, item]) => `${name}=${Search.text(item)}`)
      .join(" ");
  }

  texts() {
    this.known ??= this.trace.bodies.map((body) =>
      Object.values(body)
        .map((value) => Search.text(this.trace.values[value]))
        .join(" ")
        .toLowerCase(),
    );
    return this.known;
  }

  /** What was typed, as terms: words; texts in quotes; and numbers together with what they number, as in `layer 1`. */
  static terms(typed) {
    const found = typed.toLowerCase().matchAll(/"([^"]+)"|((?:step|layer|page|graph|stream) \d+|[^\s"]+)/g);
    return [...found].map(([, quoted, word]) => quoted ?? word);
  }

  /** Whether a text has a term; one that ends in a number is not found in a longer number. */
  static test(term) {
    if (!/\d$/.test(term)) return (text) => text.includes(term);
    const whole = new RegExp(`${term.replace(/[^\w\s]/g, "\\$&")}(?!\\d)`);
    return (text) => whole.test(text);
  }

  find() {
    const tests = Search.terms(this.input.value).map(Search.test);
    if (tests.length === 0) return this.clear();
    const bodies = tests.map((test) => this.texts().map(test));
    const paths = tests.map((test) => this.trace.paths.texts.map((text) => test(text.toLowerCase())));
    const rows = [];
    for (let row = 0; row < this.trace.numCalls; row++) {
      if (tests.every((_, i) => bodies[i][this.trace.body[row]] || paths[i][this.trace.path[row]]))
        rows.push(row);
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
      const rows = this.state.matches.value;
      const it = this.state.selected.value;
      if (rows?.length && it?.row !== undefined)
        this.output.textContent = `${Sorted.lower(rows, it.row) + 1} of ${Format.many(rows.length, "call")}`;
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.clear();
      this.input.blur();
    }
  }
}
