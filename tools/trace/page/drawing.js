"use strict";

/**
 * How a lane of bars gets onto a canvas. A hundred thousand bars cost no more than the pixels that they cover: bars are
 * found by binary search, and all that begin within one pixel are drawn as one.
 */
class BarPainter {
  /** `x(time)` in pixels; `left` to `right`: where bars may be drawn. */
  constructor(context, view, left, right) {
    Object.assign(this, { context, left, right, from: view.from, to: view.to });
    this.scale = (right - left) / view.width;
    this.ink = Palette.css("--text");
  }

  x(time) {
    return this.left + (time - this.from) * this.scale;
  }

  time(x) {
    return this.from + (x - this.left) / this.scale;
  }

  /** `style(i)`: {colour, text} of bar i. Bars without a match are pale. */
  lane(lane, y, height, style) {
    const end = Sorted.lower(lane.start, this.to);
    let i = lane.firstAfter(this.from);
    while (i < end) {
      const x = this.x(lane.start[i]);
      const width = this.x(lane.stop[i]) - x;
      if (width >= 1.5) {
        this.bar(lane, i, Math.max(x, this.left), Math.min(x + width, this.right), y, height, style(i));
        i += 1;
      } else {
        i = this.merged(lane, i, end, Math.floor(x), y, height, style);
      }
    }
    this.context.globalAlpha = 1;
  }

  bar(lane, i, x, stop, y, height, { colour, text }) {
    const context = this.context;
    const width = Math.max(1, stop - x - (stop - x > 4 ? 1 : 0));
    context.globalAlpha = lane.anyMatch(i, i + 1) ? 1 : 0.15;
    context.fillStyle = colour;
    context.fillRect(x, y, width, height);
    if (width < 26 || !text) return;
    const room = Math.floor((width - 8) / 6.1); // letters of the font below
    const shown = text.length <= room ? text : `${text.slice(0, Math.max(1, room - 1))}…`;
    context.fillStyle = colour.startsWith("#") ? Palette.ink(colour) : this.ink;
    context.fillText(shown, x + 4, y + height / 2 + 0.5);
  }

  /** One pixel for all bars that begin in it; the next bar to draw. A long one among them stands for itself. */
  merged(lane, i, end, pixel, y, height, style) {
    let next = Math.max(i + 1, Sorted.lower(lane.start, this.time(pixel + 1), i + 1, end));
    if (next - 1 > i && this.x(lane.stop[next - 1]) > pixel + 2) next -= 1;
    this.context.globalAlpha = lane.anyMatch(i, next) ? 1 : 0.15;
    const sample = Math.min(Sorted.lower(lane.stop, this.time(pixel + 0.5), i, next), next - 1); // who is in its middle
    this.context.fillStyle = style(sample).colour;
    this.context.fillRect(Math.max(pixel, this.left), y, 1, height);
    return next;
  }
}

/** The scale above the lanes: lines at round times, counted from the beginning of the trace. */
const Ruler = {
  draw(context, painter, origin, height) {
    const step = Ruler.step((painter.to - painter.from) / ((painter.right - painter.left) / 110));
    context.textBaseline = "middle";
    const text = Palette.css("--muted");
    const line = Palette.css("--grid");
    for (let at = Math.ceil((painter.from - origin) / step) * step; at <= painter.to - origin; at += step) {
      const x = Math.round(painter.x(at + origin)) + 0.5;
      context.fillStyle = line;
      context.fillRect(x, 0, 1, height);
      context.fillStyle = text;
      context.fillText(Ruler.label(at, step), x + 4, 9);
    }
  },

  /** A step of 1, 2 or 5 times a power of ten, at least `size`. */
  step(size) {
    const power = 10 ** Math.floor(Math.log10(size));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= size);
  },

  /** A time with as many digits as its neighbours need to differ. */
  label(at, step) {
    const [unit, name] =
      step >= 1e5 ? [1e6, "s"] : step >= 1e2 ? [1e3, "ms"] : step >= 0.1 ? [1, "µs"] : [1e-3, "ns"];
    const digits = Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
    return `${(at / unit).toFixed(digits)} ${name}`;
  },
};
