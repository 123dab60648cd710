"use strict";

/** The whole trace in a strip, host above and device below, and a window where the timeline looks: drag it. */
class Minimap {
  constructor(canvas, state, lanes) {
    Object.assign(this, { canvas, state, lanes, shares: null });
    this.surface = new Surface(canvas, (context, width, height) => this.draw(context, width, height));
    state.view.range.follow(() => this.surface.redraw());
    state.theme.follow(() => this.surface.redraw());
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => event.buttons && this.move(event));
  }

  draw(context, width, height) {
    if (this.shares?.width !== width)
      this.shares = { width, host: this.busy("call", width), device: this.busy("ran", width) };
    this.strip(context, this.shares.host, Palette.css("--muted"), 1, height / 2 - 2);
    this.strip(context, this.shares.device, Palette.css("--accent"), height / 2, height / 2 - 1);
    const { view } = this.state;
    const left = this.x(view.from, width);
    const right = Math.max(left + 3, this.x(view.to, width));
    context.fillStyle = Palette.css("--veil");
    context.fillRect(0, 0, left, height);
    context.fillRect(right, 0, width - right, height);
    context.strokeStyle = Palette.css("--accent");
    context.strokeRect(left + 0.5, 0.5, right - left - 1, height - 1);
  }

  strip(context, shares, colour, y, height) {
    context.fillStyle = colour;
    shares.forEach((share, x) => {
      if (share > 0) context.fillRect(x, y + height * (1 - share), 1, Math.max(1, height * share));
    });
  }

  /** The busy share of each pixel's time. */
  busy(kind, width) {
    const { view } = this.state;
    const shares = new Float64Array(width);
    const pixel = (view.end - view.begin) / width;
    for (const lane of this.lanes.filter((other) => other.kind === kind)) {
      for (let i = 0; i < lane.size; i++) {
        const from = (lane.start[i] - view.begin) / pixel;
        const to = (lane.stop[i] - view.begin) / pixel;
        for (let x = Math.floor(from); x <= to && x < width; x++) {
          shares[x] += Math.max(0, Math.min(to, x + 1) - Math.max(from, x));
        }
      }
    }
    return shares.map((share) => Math.min(1, share));
  }

  x(time, width) {
    const { view } = this.state;
    return ((time - view.begin) / (view.end - view.begin)) * width;
  }

  time(event) {
    const { view } = this.state;
    const box = this.canvas.getBoundingClientRect();
    return view.begin + ((event.clientX - box.left) / box.width) * (view.end - view.begin);
  }

  /** Outside the window: centre it there. Then it follows the pointer. */
  press(event) {
    const { view } = this.state;
    const time = this.time(event);
    this.canvas.setPointerCapture(event.pointerId);
    this.grip = time >= view.from && time <= view.to ? time - view.from : view.width / 2;
    this.move(event);
  }

  move(event) {
    const { view } = this.state;
    const from = this.time(event) - this.grip;
    view.show(from, from + view.width);
  }
}
