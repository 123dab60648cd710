"use strict";

/**
 * Where launches stand against the device's limits (Williams, Waterman and Patterson 2009): operations a second over
 * operations for each byte moved, both on logarithmic axes, beneath what memory and arithmetic allow.
 */
class Roofline {
  static WIDTH = 352;
  static HEIGHT = 210;
  static MARGIN = { left: 46, right: 10, top: 10, bottom: 34 };

  /** A point: {intensity, speed} in FLOP/byte and FLOP/s; `others` are drawn pale. */
  constructor(rates, point, others) {
    Object.assign(this, { rates, point, others });
    const all = [point, ...others];
    const ridge = rates ? rates.flops / rates.read_bytes : null;
    this.x = Roofline.axis([...all.map((other) => other.intensity), ...(ridge ? [ridge] : [])]);
    this.y = Roofline.axis([...all.map((other) => other.speed), ...(rates ? [rates.flops] : [])]);
  }

  /** Whole powers of ten around the values, as exponents. */
  static axis(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      low = Math.min(low, Math.log10(value));
      high = Math.max(high, Math.log10(value));
    }
    return { low: Math.floor(low - 0.15), high: Math.ceil(high + 0.15) };
  }

  px(value) {
    const { left, right } = Roofline.MARGIN;
    const share = (Math.log10(value) - this.x.low) / (this.x.high - this.x.low);
    return left + share * (Roofline.WIDTH - left - right);
  }

  py(value) {
    const { top, bottom } = Roofline.MARGIN;
    const share = (Math.log10(value) - this.y.low) / (this.y.high - this.y.low);
    return Roofline.HEIGHT - bottom - share * (Roofline.HEIGHT - top - bottom);
  }

  draw(text) {
    const { intensity, speed } = this.point;
    return Dom.svg(
      "svg",
      {
        class: "roofline",
        viewBox: `0 0 ${Roofline.WIDTH} ${Roofline.HEIGHT}`,
        role: "img",
        "aria-label": text,
      },
      this.grid(),
      this.rates ? this.roof() : null,
      this.others.map((other) =>
        Dom.svg("circle", { class: "other", cx: this.px(other.intensity), cy: this.py(other.speed), r: 2.5 }),
      ),
      Dom.svg("circle", { class: "point", cx: this.px(intensity), cy: this.py(speed), r: 5 }),
    );
  }

  grid() {
    const { left, bottom, top, right } = Roofline.MARGIN;
    const nodes = [];
    const floor = Roofline.HEIGHT - bottom;
    for (let power = this.x.low; power <= this.x.high; power++) {
      const x = this.px(10 ** power);
      nodes.push(
        Dom.svg("path", { class: "grid", d: `M${x} ${top}V${floor}` }),
        Dom.svg(
          "text",
          { x, y: floor + 13, "text-anchor": "middle" },
          `${10 ** power >= 1e4 ? `1e${power}` : Number((10 ** power).toPrecision(1))}`,
        ),
      );
    }
    for (let power = this.y.low; power <= this.y.high; power++) {
      const y = this.py(10 ** power);
      nodes.push(
        Dom.svg("path", { class: "grid", d: `M${left} ${y}H${Roofline.WIDTH - right}` }),
        Dom.svg("text", { x: left - 5, y: y + 3, "text-anchor": "end" }, Format.scaled(10 ** power, "").trim()),
      );
    }
    nodes.push(
      Dom.svg(
        "text",
        { class: "axis", x: Roofline.WIDTH - right, y: Roofline.HEIGHT - 6, "text-anchor": "end" },
        "FLOP for each byte moved",
      ),
    );
    nodes.push(Dom.svg("text", { class: "axis", x: left + 4, y: top + 9 }, "FLOP/s"));
    return nodes;
  }

  roof() {
    const { flops, read_bytes: bytes } = this.rates;
    const ridge = flops / bytes;
    const start = Math.max(10 ** this.x.low, 10 ** this.y.low / bytes);
    const end = 10 ** this.x.high;
    return Dom.svg("path", {
      class: "roof",
      d: `M${this.px(start)} ${this.py(start * bytes)}L${this.px(ridge)} ${this.py(flops)}H${this.px(end)}`,
    });
  }
}
