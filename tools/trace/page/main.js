"use strict";

/** The tabs below the timeline; arrows move between them. */
class Tabs {
  constructor(box) {
    this.tabs = [...box.querySelectorAll("[role=tab]")];
    this.tabs.forEach((tab, i) => {
      tab.addEventListener("click", () => this.open(i));
      tab.addEventListener("keydown", (event) => this.key(event, i));
    });
    this.open(0);
  }

  open(chosen) {
    this.tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      Dom.id(tab.getAttribute("aria-controls")).hidden = i !== chosen;
    });
  }

  key(event, i) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const next = (i + step + this.tabs.length) % this.tabs.length;
    this.open(next);
    this.tabs[next].focus();
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Light, dark, or as the system has it. */
class Theme {
  static NAMES = ["system", "light", "dark"];

  constructor(button, shared) {
    Object.assign(this, { button, shared, chosen: 0 });
    button.addEventListener("click", () => this.next());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      shared.set(Theme.NAMES[this.chosen]),
    );
    this.show();
  }

  next() {
    this.chosen = (this.chosen + 1) % Theme.NAMES.length;
    this.show();
  }

  show() {
    const name = Theme.NAMES[this.chosen];
    if (this.chosen) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    this.button.textContent = `Theme: ${name}`;
    this.shared.set(name);
  }
}

/** What the header says, and what a reader has to know before trusting a time. */
const Heading = {
  show(trace) {
    const { header } = trace;
    const { device } = header;
    Dom.id("command").textContent = header.command ?? "";
    Dom.id("command").title = header.command ?? "";
    const facts = [
      ["device", device ? `${device.name}${device.kind === "cpu" ? "" : ` (${device.arch})`}` : "unknown"],
      ["device clock", header.clock],
      ["started", header.started?.slice(0, 19).replace("T", " ")],
    ];
    Dom.id("facts").append(
      ...facts.map(([name, value]) =>
        Dom.make("div", {}, Dom.make("dt", {}, name), Dom.make("dd", {}, value ?? "unknown")),
      ),
    );
    Dom.id("notices").append(...Heading.notices(trace).map((text) => Dom.make("p", { class: "notice" }, text)));
  },

  notices(trace) {
    const notices = [];
    if (trace.numCalls === 0)
      notices.push("This trace holds no call: nothing was called, or its filters left everything out.");
    else if (trace.header.clock === "none")
      notices.push("Device times were off for this trace: there are host times only.");
    else if (trace.numActivities === 0) notices.push("Nothing ran on the device while this was traced.");
    if (trace.ranReplayed.includes(1)) {
      notices.push(
        "The kernels inside graphs are an eager replay: each was run once more, on its own, to be timed. " +
          "A graph launch itself may be faster than their sum.",
      );
    }
    return notices;
  },

  /** The operations that take most time, in their colours, with their shares of all of it. */
  legend(palette, root) {
    const [whole, where] = root.runs ? [root.device, "on the device"] : [root.host, "on the host"];
    const items = palette.ranked.slice(0, 6).map(([name, time]) => {
      const swatch = Dom.make("i", { class: "swatch" });
      swatch.style.background = palette.operation(name);
      const share = Dom.make("span", { class: "muted" }, Format.percent(time / whole));
      return Dom.make("li", { title: `${Format.time(time)} ${where}` }, swatch, `${name} `, share);
    });
    Dom.id("legend").append(...items);
  },
};

/** Put the page together. `cutaway` is its state, for whoever looks at it from the browser's console. */
async function start() {
  const trace = await Trace.load(Dom.id("data"));
  const state = new State(trace);
  const palette = new Palette(trace);
  const lanes = Lanes.of(trace);
  const history = new PageHistory(trace.notes);
  Heading.show(trace);
  Heading.legend(palette, state.root);
  const theme = new Theme(Dom.id("theme"), state.theme);
  const tabs = new Tabs(Dom.id("tabs"));
  const timeline = new Timeline(Dom.id("timeline-canvas"), state, lanes, palette);
  new Minimap(Dom.id("minimap"), state, lanes);
  const tree = new Tree(Dom.id("tree"), state, palette);
  const pages = new PagesPanel(Dom.id("pages"), state, history);
  new BatchPanel(Dom.id("batch"), state, history);
  new MemoryPanel(Dom.id("memory"), state);
  new Inspector(Dom.id("inspector"), state, history);
  const search = new Search(Dom.id("search"), Dom.id("matches"), state);
  search.onnext = (direction) => timeline.stepCalls(direction);
  new Keys({ state, timeline, tabs, theme });
  const steps = showSteps(state, timeline);
  Dom.id("zoom-steps").hidden = steps === null;
  Dom.id("zoom-steps").addEventListener("click", steps);
  Dom.id("zoom-all").addEventListener("click", () => state.view.all());
  Dom.id("timeline-canvas").setAttribute(
    "aria-label",
    `${Format.many(trace.numCalls, "call")} and ${Format.count(trace.numActivities)} activities of the device, ` +
      `over ${Format.time(trace.end - trace.begin)}`,
  );
  globalThis.cutaway = { trace, state, timeline, tree, pages, history };
  document.body.dataset.ready = "true";
}

/** Loading takes longer than the steps that one looks for: begin with these. Returns what does so again, or null. */
function showSteps(state, timeline) {
  const bars = [...timeline.steps.values()];
  if (bars.length === 0) return null;
  const last = state.trace.numActivities ? Trace.largest(state.trace.ranStop) : 0;
  const show = () =>
    state.view.show(bars[0].start, Math.max(bars[bars.length - 1].stop, Math.min(last, state.trace.end)));
  show();
  return show;
}

start().catch((error) => {
  document.body.prepend(
    Dom.make("p", { class: "notice" }, `This page could not read its trace: ${error.message}`),
  );
  throw error;
});
