"use strict";

/** The lanes of host and device over time: wheel zooms, drag pans, click selects, keys do all of it (keys.js). */
class Timeline {
  static GUTTER = 92;
  static RULER = 18;
  static ROW = 18;
  static GAP = 6;

  constructor(canvas, state, lanes, palette) {
    Object.assign(this, { canvas, state, lanes, palette, trace: state.trace, drag: null });
    this.steps = this.readSteps();
    this.place();
    this.surface = new Surface(canvas, (context, width, height) => this.draw(context, width, height));
    for (const shared of [state.view.range, state.selected, state.step, state.theme])
      shared.follow(() => this.surface.redraw());
    state.step.follow(() => this.followStep());
    state.matches.follow((rows) => this.searched(rows));
    this.listen();
  }

  /** Give each lane its place; a gap before each new kind and each stream. */
  place() {
    let y = Timeline.RULER + 4;
    this.places = this.lanes.map((lane, index) => {
      const before = this.lanes[index - 1];
      if (before && before.kind !== lane.kind && lane.kind !== "place") y += Timeline.GAP;
      const place = { lane, y, depth: lane.kind === "label" ? index : -1 };
      y += Timeline.ROW;
      return place;
    });
    this.height = y + 4;
    this.canvas.style.height = `${this.height}px`;
  }

  /** The style of bar i of a lane. */
  style({ lane, depth }) {
    const { trace, palette } = this;
    const shades = [1, 2].map((number) => Palette.css(`--label-${number}`));
    if (lane.kind === "label") {
      return (i) => ({ colour: shades[i % 2], text: trace.paths.parts(trace.path[lane.items[i]])[depth] });
    }
    if (lane.kind === "place") return (i) => ({ colour: shades[i % 2], text: trace.place(lane.items[i]) });
    if (lane.kind === "call") {
      return (i) => ({ colour: palette.call(lane.items[i]), text: trace.name(lane.items[i]) });
    }
    return (i) => ({ colour: palette.ran(lane.items[i]), text: trace.ranTitle(lane.items[i]) });
  }

  painter(context, width) {
    return new BarPainter(context, this.state.view, Timeline.GUTTER, width);
  }

  draw(context, width, height) {
    const painter = this.painter(context, width);
    context.font = '11px ui-sans-serif, system-ui, "DejaVu Sans", sans-serif';
    context.textBaseline = "middle";
    Ruler.draw(context, painter, this.trace.begin, height);
    this.drawStep(context, painter, height);
    for (const place of this.places) painter.lane(place.lane, place.y, Timeline.ROW - 2, this.style(place));
    this.drawArrows(context, painter);
    this.drawSelected(context, painter);
    this.drawTitles(context, height);
    Dom.id("range").textContent =
      `${Format.time(this.state.view.width)} of ${Format.time(this.trace.end - this.trace.begin)}`;
  }

  /** The names of the lanes, over whatever ran under them. */
  drawTitles(context, height) {
    context.fillStyle = Palette.css("--panel");
    context.fillRect(0, 0, Timeline.GUTTER - 2, height);
    context.fillStyle = Palette.css("--muted");
    for (const { lane, y } of this.places) {
      if (lane.title) context.fillText(lane.title.slice(0, 15), 2, y + Timeline.ROW / 2);
    }
  }

  /** A pale band where the step lies that the other panels show. */
  drawStep(context, painter, height) {
    const note = this.trace.notes[this.state.step.value];
    const bar = note && this.barOfStep(note.name);
    if (!bar) return;
    const from = Math.max(Timeline.GUTTER, painter.x(bar.start));
    const to = Math.min(painter.right, painter.x(bar.stop));
    if (to <= from) return;
    context.fillStyle = Palette.css("--band");
    context.fillRect(from, Timeline.RULER, Math.max(1, to - from), height);
  }

  /** Show the step that another panel went to, unless some of it is in sight. */
  followStep() {
    const bar = this.barOfStep(this.trace.notes[this.state.step.value].name);
    const { view } = this.state;
    if (bar && (bar.stop < view.from || bar.start > view.to)) view.frame(bar.start, bar.stop);
  }

  /** The time in which a step's calls were made: {start, stop}; undefined when the trace has none of them. */
  barOfStep(name) {
    return this.steps.get(name);
  }

  readSteps() {
    const steps = new Map();
    const lane = this.lanes.find((other) => other.kind === "label");
    for (let i = 0; lane && i < lane.size; i++) {
      const [name] = this.trace.paths.parts(this.trace.path[lane.items[i]]);
      if (/^(engine \d+ )?step \d+$/.test(name)) {
        steps.set(name, { start: steps.get(name)?.start ?? lane.start[i], stop: lane.stop[i] });
      }
    }
    return steps;
  }

  drawSelected(context, painter) {
    const time = this.state.selectedTime();
    if (time === null) return;
    const it = this.state.selected.value;
    const places = this.places.filter((place) => this.holds(place, it));
    context.strokeStyle = Palette.css("--text");
    context.lineWidth = 2;
    const from = Math.max(Timeline.GUTTER, painter.x(time.start));
    const to = Math.min(painter.right, painter.x(time.stop));
    for (const { y } of to >= Timeline.GUTTER && from <= painter.right ? places : []) {
      context.strokeRect(from - 1, y - 1, Math.max(4, to - from + 1), Timeline.ROW);
    }
  }

  /** Whether a lane has the bar of what is selected. */
  holds({ lane, depth }, it) {
    if (it.kind === "node") return depth === it.node.parts.length - 1;
    if (lane.kind !== it.kind) return false;
    const item = it.kind === "ran" ? it.activity : it.row;
    return lane.has(item, it.kind === "ran" ? this.trace.ranStart[item] : this.trace.start[item]);
  }

  /** From the selected call to what it started on the device; of many, to the first and the last. */
  drawArrows(context, painter) {
    const it = this.state.selected.value;
    if (it === null || (it.kind !== "call" && it.kind !== "ran")) return;
    const ran = this.trace.activitiesOf(it.row);
    const ends = it.kind === "ran" ? [it.activity] : ran.length > 8 ? [ran[0], ran[ran.length - 1]] : ran;
    const from = this.placeOf("call", it.row, this.trace.start[it.row]);
    context.strokeStyle = context.fillStyle = Palette.css("--text");
    context.lineWidth = 1.25;
    for (const activity of ends) {
      const to = this.placeOf("ran", activity, this.trace.ranStart[activity]);
      if (from && to)
        this.arrow(context, painter, this.trace.start[it.row], from, this.trace.ranStart[activity], to);
    }
  }

  placeOf(kind, item, start) {
    return this.places.find(({ lane }) => lane.kind === kind && lane.has(item, start));
  }

  arrow(context, painter, start, from, stop, to) {
    const x = painter.x(start);
    const y = from.y + Timeline.ROW - 2;
    const endX = painter.x(stop);
    const endY = to.y;
    if (Math.max(x, endX) < Timeline.GUTTER || Math.min(x, endX) > painter.right) return;
    context.beginPath();
    context.moveTo(x, y);
    context.bezierCurveTo(x, y + 14, endX, endY - 14, endX, endY - 3);
    context.stroke();
    context.beginPath();
    context.moveTo(endX, endY);
    context.lineTo(endX - 4, endY - 7);
    context.lineTo(endX + 4, endY - 7);
    context.fill();
  }

  searched(rows) {
    const found = rows && new Set(rows);
    const test = {
      call: (row) => found.has(row),
      ran: (activity) => found.has(this.trace.ranCall[activity]) || found.has(this.trace.ranOrigin[activity]),
    };
    for (const lane of this.lanes) {
      if (rows === null || !test[lane.kind]) lane.matches = null;
      else lane.search(test[lane.kind]);
    }
    this.surface.redraw();
  }

  // --- the pointer

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointerleave", () => Tooltip.hide());
    canvas.addEventListener("dblclick", () => this.zoomToSelected());
  }

  time(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.painter(null, box.width).time(event.clientX - box.left);
  }

  /** A wheel zooms where the pointer is; sideways, or with Shift, it pans. */
  wheel(event) {
    event.preventDefault();
    const { view } = this.state;
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY))
      view.pan((sideways / this.canvas.clientWidth) * view.width);
    else view.zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) * 0.0025), this.time(event));
  }

  press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { x: event.clientX, from: this.state.view.from, moved: false };
  }

  move(event) {
    if (this.drag === null) return this.hover(event);
    const { view } = this.state;
    const pixels = event.clientX - this.drag.x;
    this.drag.moved ||= Math.abs(pixels) > 3;
    if (!this.drag.moved) return;
    Tooltip.hide();
    const from = this.drag.from - (pixels / (this.canvas.clientWidth - Timeline.GUTTER)) * view.width;
    view.show(from, from + view.width);
  }

  release(event) {
    const clicked = this.drag !== null && !this.drag.moved;
    this.drag = null;
    if (clicked) this.select(this.hit(event));
  }

  /** {lane, depth, i}: the bar under the pointer, or null. */
  hit(event) {
    const box = this.canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    const place = this.places.find((other) => y >= other.y && y < other.y + Timeline.ROW);
    if (!place || event.clientX - box.left < Timeline.GUTTER) return null;
    const i = place.lane.at(this.time(event), (3 * this.state.view.width) / box.width);
    return i < 0 ? null : { ...place, i };
  }

  select(found) {
    if (found === null) return this.state.selected.set(null);
    const { lane, depth, i } = found;
    const item = lane.items[i];
    if (lane.kind === "call") this.state.selectCall(item);
    else if (lane.kind === "ran") this.state.selectRan(item);
    else if (lane.kind === "place") this.state.selectRan(item);
    else
      this.state.selectNode(
        this.state.root.descend(this.trace.paths.parts(this.trace.path[item]).slice(0, depth + 1)),
        lane.start[i],
        lane.stop[i],
      );
  }

  hover(event) {
    const found = this.hit(event);
    if (found === null) return Tooltip.hide();
    const { lane, depth, i } = found;
    const { trace } = this;
    const item = lane.items[i];
    const took = Format.time(lane.kind === "ran" ? trace.ranTime(item) : lane.stop[i] - lane.start[i]);
    const pixel = this.state.view.width / this.canvas.clientWidth;
    const here = lane.count(lane.start[i], lane.start[i] + pixel);
    const more = here > 1 ? `and ${here - 1} more within this pixel` : null;
    if (lane.kind === "place")
      return Tooltip.show(event, trace.paths.text(trace.ranPath[item]), [`${took} on the device`, more]);
    if (lane.kind === "label")
      return Tooltip.show(
        event,
        trace.paths
          .parts(trace.path[item])
          .slice(0, depth + 1)
          .join(" / "),
        [took, more],
      );
    const path = lane.kind === "call" ? trace.path[item] : trace.ranPath[item];
    const title = lane.kind === "call" ? trace.name(item) : trace.ranTitle(item);
    const what =
      lane.kind === "call" ? trace.field(item, "call") : `${trace.ranName[item]} on ${trace.ranStream[item]}`;
    Tooltip.show(event, title, [took, what, trace.paths.text(path), more]);
  }

  zoomToSelected() {
    const time = this.state.selectedTime();
    if (time) this.state.view.frame(time.start, time.stop);
  }

  /** Select the next call (or the one before), beginning with the first in sight. */
  stepCalls(direction) {
    const it = this.state.selected.value;
    const rows = this.state.matches.value;
    const now =
      it && it.row !== undefined
        ? it.row
        : Sorted.lower(this.trace.start, this.state.view.from) - (direction > 0 ? 1 : 0);
    const row = rows
      ? Sorted.lower(rows, now + (direction > 0 ? 1 : 0)) + (direction > 0 ? 0 : -1)
      : now + direction;
    const next = rows ? rows[row] : row;
    if (next === undefined || next < 0 || next >= this.trace.numCalls) return;
    this.state.selectCall(next);
    this.state.view.reveal(this.trace.start[next], this.trace.stop[next]);
  }

  /** Enter: zoom to what is selected; with nothing selected, select the first call in sight. */
  open() {
    if (this.state.selectedTime()) this.zoomToSelected();
    else this.stepCalls(1);
  }
}
