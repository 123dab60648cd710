"use strict";

/**
 * Who holds which KV page in each step. A note tells only what changed, so the state of a step is made from the
 * nearest checkpoint before it: the slider jumps anywhere at once.
 */
class PageHistory {
  static EVERY = 32; // steps between checkpoints

  constructor(notes) {
    this.notes = notes;
    this.numPages = notes.reduce((most, note) => Math.max(most, note.num_pages), 0); // of the largest engine
    this.checkpoints = [];
    const state = PageHistory.start();
    notes.forEach((note, index) => {
      if (index % PageHistory.EVERY === 0) this.checkpoints.push(PageHistory.copy(state));
      PageHistory.apply(state, note);
    });
  }

  static start() {
    return { tables: new Map(), lengths: new Map(), cached: new Set() };
  }

  static copy({ tables, lengths, cached }) {
    return { tables: new Map(tables), lengths: new Map(lengths), cached: new Set(cached) };
  }

  /** `tables`: request to pages; `lengths`: request to tokens with keys and values once the step has run. */
  static apply(state, note) {
    if (note.begins) for (const part of Object.values(state)) part.clear();
    for (const request of [...note.released, ...note.preempted]) {
      state.tables.delete(request);
      state.lengths.delete(request);
    }
    for (const [request, [kept, pages]] of Object.entries(note.tables)) {
      const before = state.tables.get(Number(request)) ?? [];
      state.tables.set(Number(request), [...before.slice(0, kept), ...pages]);
    }
    for (const [request, position] of note.decodes) state.lengths.set(request, position + 1);
    for (const [request, , stop] of note.prefills) state.lengths.set(request, stop);
    for (const page of note.cached[0]) state.cached.add(page);
    for (const page of note.cached[1]) state.cached.delete(page);
  }

  /** The state once step `index` was planned; -1: before the first. */
  at(index) {
    if (index < 0) return PageHistory.start();
    const checkpoint = Math.floor(index / PageHistory.EVERY);
    const state = PageHistory.copy(this.checkpoints[checkpoint]);
    for (let i = checkpoint * PageHistory.EVERY; i <= index; i++) PageHistory.apply(state, this.notes[i]);
    return state;
  }

  /** Page to its holders: [{request, first}], `first` the position of the page's first token in that sequence. */
  holders(state, pageSize) {
    const holders = new Map();
    for (const [request, pages] of state.tables) {
      pages.forEach((page, i) => {
        const holder = {
          request,
          first: i * pageSize,
          tokens: PageHistory.tokens(state, request, i, pageSize),
        };
        if (holders.has(page)) holders.get(page).push(holder);
        else holders.set(page, [holder]);
      });
    }
    return holders;
  }

  /** How many tokens of a sequence its page number `i` holds. */
  static tokens(state, request, i, pageSize) {
    return Math.max(0, Math.min(pageSize, (state.lengths.get(request) ?? 0) - i * pageSize));
  }

  /** Every page that was ever held or cached, sorted. */
  everUsed() {
    const used = new Set();
    for (const note of this.notes) {
      for (const [, pages] of Object.values(note.tables)) for (const page of pages) used.add(page);
      for (const page of note.cached[0]) used.add(page);
    }
    return [...used].sort((a, b) => a - b);
  }

  /** Every request that appears, in order. */
  requests() {
    const seen = new Set();
    for (const note of this.notes) {
      for (const [request] of [...note.decodes, ...note.prefills]) seen.add(request);
    }
    return [...seen].sort((a, b) => a - b);
  }
}

/** How a step is told in words. */
const StepWords = {
  /** What ran: `4 decodes, prefill of 31 tokens`. */
  batch(note) {
    const tokens = note.prefills.reduce((sum, [, start, stop]) => sum + stop - start, 0);
    const parts = [];
    if (note.decodes.length) parts.push(Format.many(note.decodes.length, "decode"));
    if (note.prefills.length)
      parts.push(`${Format.many(note.prefills.length, "prefill")} of ${Format.many(tokens, "token")}`);
    return parts.join(", ") || "nothing ran";
  },

  /** What happened to pages. */
  events(note) {
    const copies = note.copies.map(
      ([source, target, tokens]) =>
        `copy-on-write: ${Format.many(tokens, "token")} of page ${source} to page ${target}`,
    );
    if (copies.length > 3) copies.splice(3, copies.length, `and ${note.copies.length - 3} more copies`);
    const ended = note.released.filter((request) => !note.preempted.includes(request));
    return [
      ...copies,
      note.preempted.length ? `${StepWords.requests(note.preempted)} preempted: memory was short` : null,
      ended.length ? `${StepWords.requests(ended)} let go of all pages` : null,
    ].filter(Boolean);
  },

  /** `request 3`, `requests 3, 5`. */
  requests(numbers) {
    const listed = numbers.length > 8 ? `${numbers.slice(0, 8).join(", ")} …` : numbers.join(", ");
    return `request${numbers.length === 1 ? "" : "s"} ${listed}`;
  },
};
