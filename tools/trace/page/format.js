"use strict";

/** Numbers as a person reads them. */
const Format = {
  /** A duration given in microseconds. */
  time(us) {
    const size = Math.abs(us);
    if (size === 0) return "0";
    if (size < 1) return `${Format.digits(us * 1e3)} ns`;
    if (size < 1e3) return `${Format.digits(us)} µs`;
    if (size < 1e6) return `${Format.digits(us / 1e3)} ms`;
    return `${Format.digits(us / 1e6)} s`;
  },

  bytes(count) {
    return Format.scaled(count, "B");
  },

  /** A rate in units a second, such as B/s or FLOP/s. */
  rate(perSecond, unit) {
    return `${Format.scaled(perSecond, unit)}/s`;
  },

  /** Steps of a thousand, as bandwidths and file sizes are told. */
  scaled(value, unit) {
    const prefixes = ["", "k", "M", "G", "T", "P"];
    let power = 0;
    while (Math.abs(value) >= 1e3 && power < prefixes.length - 1) {
      value /= 1e3;
      power += 1;
    }
    return `${Format.digits(value)} ${prefixes[power]}${unit}`;
  },

  /** Three significant digits, and every digit of a larger whole number. */
  digits(value) {
    const size = Math.abs(value);
    if (size >= 100 || Number.isInteger(value)) return Format.count(Math.round(value));
    return value.toFixed(size >= 10 ? 1 : 2);
  },

  count(number) {
    return number.toLocaleString("en-US");
  },

  /** `1 call`, `2 calls`. */
  many(number, word) {
    return `${Format.count(number)} ${word}${number === 1 ? "" : "s"}`;
  },

  percent(part) {
    const value = part * 100;
    return `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;
  },

  /** Whole numbers as `0–3, 7`. */
  ranges(numbers) {
    const parts = [];
    for (const number of numbers) {
      const last = parts[parts.length - 1];
      if (last && last[1] === number - 1) last[1] = number;
      else parts.push([number, number]);
    }
    return parts.map(([first, end]) => (first === end ? `${first}` : `${first}–${end}`)).join(", ");
  },
};
