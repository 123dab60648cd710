"use strict";

/** The tree of tree_model.js as a table: sortable, folded, and drawn only as far as it is seen. */
class Tree {
  static ROW = 26;
  // heading, width and value of each column that sorts; execution order is the first one's
  static COLUMNS = [
    ["name", "Step, layer, operation", null],
    ["calls", "Calls", (node) => node.calls],
    ["host", "Host time", (node) => node.host],
    ["runs", "Runs", (node) => node.runs],
    ["device", "Device time", (node) => node.device],
    ["rate", "Moved", (node) => (node.device > 0 ? node.bytes / node.device : 0)],
  ];

  constructor(box, state, palette) {
    Object.assign(this, { box, state, palette, trace: state.trace, root: state.root });
    Object.assign(this, {
      open: new Set(),
      rows: [],
      focus: 0,
      sort: "name",
      foldLayers: true,
      foldSteps: false,
    });
    this.build();
    const steps = [...this.root.children.values()].filter((child) => child.name !== TreeModel.OUTSIDE);
    if (steps.length <= 2) for (const step of steps) this.open.add(this.key(step));
    state.selected.follow((it) => this.follow(it));
    this.list();
  }

  build() {
    this.grid = Dom.make("div", {
      class: "rows",
      role: "treegrid",
      tabindex: 0,
      "aria-label": "The model as a tree",
      onkeydown: (event) => this.key_(event),
      onscroll: () => this.draw(),
      onfocus: () => this.draw(),
    });
    this.spacer = Dom.make("div", { class: "spacer", role: "rowgroup" });
    this.grid.append(this.spacer);
    this.heading = Dom.make("div", { class: "tree-row heading" });
    this.box.append(
      Dom.make(
        "div",
        { class: "toolbar" },
        this.toggle("Fold equal layers", "foldLayers"),
        this.toggle("Fold equal steps", "foldSteps"),
        Dom.button("Close all", () => this.closeAll()),
      ),
      this.heading,
      this.grid,
    );
    new ResizeObserver(() => this.draw()).observe(this.grid);
  }

  toggle(text, name) {
    const box = Dom.make("input", {
      type: "checkbox",
      checked: this[name],
      onchange: () => {
        this[name] = box.checked;
        this.list();
      },
    });
    return Dom.make("label", { class: "check" }, box, text);
  }

  closeAll() {
    this.open.clear();
    this.focus = 0;
    this.list();
  }

  key(node) {
    return node.parts.join(" / ");
  }

  // --- which rows there are

  list() {
    this.rows = [];
    this.collect(this.root, 1);
    this.focus = Math.max(0, Math.min(this.focus, this.rows.length - 1));
    this.spacer.style.height = `${this.rows.length * Tree.ROW}px`;
    this.grid.setAttribute("aria-rowcount", this.rows.length);
    this.drawHeading();
    this.draw();
  }

  collect(node, level) {
    const children = this.sorted(
      TreeModel.shown(node, (word) => (word.endsWith("step") ? this.foldSteps : this.foldLayers)),
    );
    children.forEach((child, place) => {
      this.rows.push({ node: child, level, place: place + 1, siblings: children.length });
      if (this.open.has(this.key(child))) this.collect(child, level + 1);
    });
  }

  sorted(nodes) {
    const value = Tree.COLUMNS.find(([name]) => name === this.sort)[2];
    return value ? [...nodes].sort((a, b) => value(b) - value(a)) : nodes;
  }

  // --- drawing

  drawHeading() {
    this.heading.replaceChildren(
      ...Tree.COLUMNS.map(([name, title]) =>
        Dom.make(
          "button",
          {
            type: "button",
            class: `cell ${name}`,
            "aria-pressed": String(this.sort === name),
            title: name === "name" ? "in the order in which they ran" : `most ${title.toLowerCase()} first`,
            onclick: () => {
              this.sort = name;
              this.list();
            },
          },
          this.sort === name ? `${title} ${name === "name" ? "↓" : "▾"}` : title,
        ),
      ),
    );
  }

  draw() {
    const first = Math.max(0, Math.floor(this.grid.scrollTop / Tree.ROW) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.grid.clientHeight / Tree.ROW) + 8);
    const nodes = [];
    for (let i = first; i < last; i++) nodes.push(this.row(i));
    this.spacer.replaceChildren(...nodes);
    if (this.focus >= first && this.focus < last)
      this.grid.setAttribute("aria-activedescendant", `tree-row-${this.focus}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  row(i) {
    const { node, level, place, siblings } = this.rows[i];
    const open = this.open.has(this.key(node));
    const row = Dom.make(
      "div",
      {
        id: `tree-row-${i}`,
        class: `tree-row${i === this.focus ? " focused" : ""}`,
        role: "row",
        "aria-level": level,
        "aria-setsize": siblings,
        "aria-posinset": place,
        "aria-rowindex": i + 1,
        "aria-expanded": node.isLeaf ? null : String(open),
        "aria-selected": String(i === this.focus),
        onclick: (event) => this.click(i, event),
      },
      this.nameCell(node, level, open),
      ...this.cells(node),
    );
    row.style.top = `${i * Tree.ROW}px`;
    return row;
  }

  nameCell(node, level, open) {
    const swatch = Dom.make("i", { class: "swatch" });
    if (node.isLeaf) swatch.style.background = this.palette.operation(node.name);
    const cell = Dom.make(
      "span",
      { class: "cell name", role: "gridcell" },
      node.isLeaf ? swatch : Dom.make("span", { class: `arrow${open ? " open" : ""}` }),
      Dom.make("span", { class: "text" }, node.name),
      node.folded > 1 ? Dom.make("span", { class: "times" }, `×${node.folded}`) : null,
    );
    cell.style.paddingLeft = `${8 + (level - 1) * 18}px`;
    return cell;
  }

  cells(node) {
    const cell = (name, text, bar = null) =>
      Dom.make("span", { class: `cell ${name}`, role: "gridcell" }, bar, text);
    const moved = node.device > 0 && node.bytes > 0 ? Format.rate((node.bytes / node.device) * 1e6, "B") : "";
    return [
      cell("calls", node.calls ? Format.count(node.calls) : ""),
      cell("host", node.host ? Format.time(node.host) : "", this.bar(node, "host")),
      cell("runs", node.runs ? Format.count(node.runs) : ""),
      cell("device", node.device ? Format.time(node.device) : "", this.bar(node, "device")),
      cell("rate", moved),
    ];
  }

  /** The share of the whole trace's time. */
  bar(node, which) {
    const whole = this.root[which];
    if (!node[which]) return null;
    const share = node[which] / whole;
    const bar = Dom.make(
      "span",
      { class: `bar ${which}`, title: `${Format.percent(share)} of all ${which} time` },
      Dom.make("i"),
    );
    bar.firstChild.style.width = `${share * 100}%`;
    return bar;
  }

  // --- hands and keys

  click(i, event) {
    this.focus = i;
    const node = this.rows[i].node;
    if (!node.isLeaf && event.target.closest(".arrow")) return this.flip(node);
    if (event.detail === 2 && !node.isLeaf) return this.flip(node);
    this.select(node);
    this.draw();
  }

  flip(node, open = !this.open.has(this.key(node))) {
    if (open) this.open.add(this.key(node));
    else this.open.delete(this.key(node));
    this.list();
  }

  /** A leaf selects its first call, or what a graph ran of it first; anything above, its time. */
  select(node) {
    this.selecting = true;
    const own = node.rows.find((row) => !this.trace.isCaptured(row));
    if (!node.isLeaf) this.state.selectNode(node);
    else if (own === undefined && node.ran >= 0) this.state.selectRan(node.ran);
    else this.state.selectCall(own ?? node.rows[0]);
    this.selecting = false;
  }

  key_(event) {
    const row = this.rows[this.focus];
    const page = Math.max(1, Math.floor(this.grid.clientHeight / Tree.ROW) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.moveTo(this.focus + moves[event.key]);
    else if (event.key === "ArrowRight" && row) this.right(row);
    else if (event.key === "ArrowLeft" && row) this.left(row);
    else if ((event.key === "Enter" || event.key === " ") && row) this.enter(row);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  right({ node }) {
    if (node.isLeaf) return;
    if (this.open.has(this.key(node))) this.moveTo(this.focus + 1);
    else this.flip(node, true);
  }

  left({ node, level }) {
    if (!node.isLeaf && this.open.has(this.key(node))) return this.flip(node, false);
    let parent = this.focus - 1;
    while (parent >= 0 && this.rows[parent].level >= level) parent -= 1;
    if (parent >= 0) this.moveTo(parent);
  }

  enter({ node }) {
    if (!node.isLeaf) this.flip(node);
    this.select(node);
  }

  moveTo(i) {
    this.focus = Math.max(0, Math.min(this.rows.length - 1, i));
    this.scrollTo();
    this.draw();
  }

  scrollTo() {
    const top = this.focus * Tree.ROW;
    const { grid } = this;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + Tree.ROW > grid.scrollTop + grid.clientHeight)
      grid.scrollTop = top + Tree.ROW - grid.clientHeight;
  }

  /** Open the way to what was selected elsewhere. */
  follow(it) {
    if (this.selecting || it === null || !["call", "ran", "node"].includes(it.kind)) return;
    const names = it.kind === "node" ? it.node.parts : this.namesOf(it);
    let node = this.root;
    let found = null;
    for (const name of names) {
      const shown = TreeModel.shown(node, (word) => (word.endsWith("step") ? this.foldSteps : this.foldLayers));
      const child = node.children.get(name);
      node = shown.find((other) => other === child || (other.folded > 1 && this.stands(other, name)));
      if (node === undefined) break;
      found = node;
      if (node.children.size && name !== names[names.length - 1]) this.open.add(this.key(node));
    }
    this.list();
    const row = this.rows.findIndex((other) => other.node === found);
    if (row < 0) return;
    const top = row * Tree.ROW;
    const { scrollTop, clientHeight } = this.grid;
    if (top < scrollTop || top + Tree.ROW > scrollTop + clientHeight)
      this.grid.scrollTop = top - clientHeight / 2;
    this.moveTo(row);
  }

  namesOf(it) {
    const path = it.kind === "ran" ? this.trace.ranPath[it.activity] : this.trace.path[it.row];
    const leaf = it.kind === "ran" ? this.trace.ranTitle(it.activity) : this.trace.name(it.row);
    return [...TreeModel.names(this.trace, path), leaf];
  }

  /** Whether a folded node stands for the node of this name. */
  stands(folded, name) {
    const [, word, number] = /^(.*?)(\d+)$/.exec(name) ?? [];
    if (word === undefined || !folded.name.startsWith(`${word.trim()}s `)) return false;
    return folded.name
      .slice(word.trim().length + 2)
      .split(", ")
      .some((range) => {
        const [first, last = first] = range.split("–").map(Number);
        return number >= first && number <= last;
      });
  }
}
