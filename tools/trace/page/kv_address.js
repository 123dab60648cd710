"use strict";

/** Where in device memory the keys and values of one position of a sequence lie. */
class KvAddress {
  constructor(trace) {
    this.trace = trace;
    this.caches = [
      ["keys", this.cache("k_cache")],
      ["values", this.cache("v_cache")],
    ].filter(([, cache]) => cache !== null);
  }

  /** Asks for a position, and tells. `pages`: the block table of a sequence of `tokens`, `size` tokens a page. */
  section(pages, tokens, size) {
    const last = Math.max(0, tokens - 1);
    const range = { type: "number", min: 0, max: pages.length * size - 1, value: last, oninput: () => tell() };
    const input = Dom.make("input", range);
    const answer = Dom.make("output", { class: "answer" });
    const tell = () => answer.replaceChildren(...this.words(pages, Number(input.value), size));
    tell();
    const label = Dom.make("label", { class: "finder" }, "position ", input);
    return Dom.section("Where a token's keys and values lie", label, answer);
  }

  words(pages, position, size) {
    const known = Number.isInteger(position) && position >= 0 && position < pages.length * size;
    if (!known) return ["no page for that position"];
    const page = pages[Math.floor(position / size)];
    const slot = position % size;
    const where = Dom.make("p", {}, `page ${page}, slot ${slot} in it: slot ${page * size + slot} of the pool`);
    return [where, ...this.caches.map(([name, cache]) => KvAddress.inMemory(name, cache, page, slot, size))];
  }

  /** A page of a layer is [KV heads, tokens, width]. */
  static inMemory(name, { buffer, offset, heads, row }, page, slot, size) {
    const hex = (bytes) => `0x${bytes.toString(16)}`;
    const address = `${buffer}+${hex(offset + (page * heads * size + slot) * row)}`;
    const rest = `, ${row} bytes; of the next head ${hex(size * row)} further on`;
    return Dom.make("p", {}, `${name} of layer 0, KV head 0: `, Dom.make("code", {}, address), rest);
  }

  /** Layer 0's keys or values, from the first call that names them: {buffer, offset, heads, row}; sizes in bytes. */
  cache(name) {
    const { trace } = this;
    for (let row = 0; row < trace.numCalls; row++) {
      const text = trace.field(row, "tensors")?.[name];
      if (text && trace.paths.parts(trace.path[row]).includes("layer 0")) return KvAddress.parsed(text);
    }
    return null;
  }

  /** A tensor as traces spell it: `kv_pages+0x5400000:bf16[512, 3, 16, 64]`, pages, heads, tokens and width. */
  static parsed(text) {
    const match = /^([^:+]+)(?:\+0x([\da-f]+))?:\D+(\d+)\[\d+, (\d+), \d+, (\d+)\]$/.exec(text);
    if (match === null) return null;
    const [, buffer, offset, bits, heads, width] = match;
    const row = (Number(width) * Number(bits)) / 8;
    return { buffer, offset: parseInt(offset ?? "0", 16), heads: Number(heads), row };
  }
}
