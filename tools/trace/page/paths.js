"use strict";

/** Labels such as `step 1 / decode / layer 3 / attention`, each known by a number, and taken apart once. */
class Paths {
  constructor() {
    this.texts = [];
    this.numbers = new Map();
    this.partsOf = [];
  }

  number(text) {
    let number = this.numbers.get(text);
    if (number === undefined) {
      number = this.texts.length;
      this.numbers.set(text, number);
      this.texts.push(text);
      this.partsOf.push(text === "" ? [] : text.split(" / "));
    }
    return number;
  }

  parts(number) {
    return this.partsOf[number];
  }

  text(number) {
    return this.texts[number];
  }

  /**
   * Where a kernel of a graph belongs: the label of the launch, and what the captured call's label adds below it.
   * The graph was captured in an earlier step; the step that counts is the one that launched it.
   */
  joined(launch, captured) {
    const outer = this.parts(launch);
    const inner = this.parts(captured).slice(outer.length);
    return inner.length ? this.number([...outer, ...inner].join(" / ")) : launch;
  }
}
