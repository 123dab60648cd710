"use strict";

/** What the keyboard does, in one table: the help shows the same. */
class Keys {
  static HELP = [
    ["← → or A D", "move through time"],
    ["↑ ↓ or W S", "zoom in and out"],
    ["Home", "show the whole trace"],
    [", and .", "select the call before or after (while searching: the match)"],
    ["Enter", "zoom to what is selected; in the tree and the grid: open it"],
    ["Esc", "let go of what is selected; close"],
    ["/", "search; Enter goes to the next match, Shift+Enter to the one before"],
    ["[ and ]", "the step before or after"],
    ["1 2 3 4", "model, KV pages, batches, memory"],
    ["T", "light, dark, or as the system has it"],
    ["Tab", "from panel to panel; in the tree and the grid the arrows move"],
    ["?", "this list"],
  ];

  constructor({ state, timeline, tabs, theme }) {
    Object.assign(this, { state, timeline, tabs, theme, help: Dom.id("help") });
    this.help.append(
      Dom.make("h2", { id: "help-title" }, "Keys"),
      Dom.make(
        "dl",
        { class: "keys" },
        Keys.HELP.map(([keys, what]) => [
          Dom.make("dt", {}, Dom.make("kbd", {}, keys)),
          Dom.make("dd", {}, what),
        ]).flat(),
      ),
      Dom.make(
        "p",
        { class: "muted" },
        "The mouse: a wheel zooms where the pointer is, Shift and wheel or dragging moves, " +
          "a click selects, a double click zooms to it.",
      ),
      Dom.make("form", { method: "dialog" }, Dom.make("button", {}, "Close")),
    );
    Dom.id("help-button").addEventListener("click", () => this.help.showModal());
    document.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || this.help.open) return;
    const typing = event.target.matches("input[type=search], input[type=number], select");
    if (typing) return;
    const action =
      this.anywhere(event.key) ?? (this.inTimeline(event.target) ? this.moves(event.key) : undefined);
    if (action === undefined) return;
    event.preventDefault();
    action();
  }

  inTimeline(target) {
    return target === document.body || target === this.timeline.canvas;
  }

  anywhere(key) {
    const { state, timeline } = this;
    const { view } = state;
    const actions = {
      "/": () => Dom.id("search").focus(),
      "?": () => this.help.showModal(),
      t: () => this.theme.next(),
      a: () => view.pan(-view.width * 0.2),
      d: () => view.pan(view.width * 0.2),
      w: () => view.zoom(1 / 1.5),
      s: () => view.zoom(1.5),
      ",": () => timeline.stepCalls(-1),
      ".": () => timeline.stepCalls(1),
      Escape: () => state.selected.set(null),
      "[": () => state.showStep(state.step.value - 1),
      "]": () => state.showStep(state.step.value + 1),
    };
    if (/^[1-4]$/.test(key)) return () => this.tabs.open(Number(key) - 1);
    return actions[key.length === 1 ? key.toLowerCase() : key];
  }

  moves(key) {
    const { timeline } = this;
    const { view } = this.state;
    return {
      ArrowLeft: () => view.pan(-view.width * 0.2),
      ArrowRight: () => view.pan(view.width * 0.2),
      ArrowUp: () => view.zoom(1 / 1.5),
      ArrowDown: () => view.zoom(1.5),
      Home: () => view.all(),
      Enter: () => timeline.open(),
    }[key];
  }
}
