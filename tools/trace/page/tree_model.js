"use strict";

/**
 * The model as a tree: step, phase, layer, part of a layer, operation. A node sums what lies below it. Nodes that
 * differ in nothing but a number (`layer 0` to `layer 29`) can be folded into one, which sums them all.
 */
class TreeNode {
  constructor(name, parent) {
    Object.assign(this, {
      name,
      parent,
      children: new Map(),
      calls: 0,
      runs: 0,
      host: 0,
      device: 0,
      bytes: 0,
      flops: 0,
    });
    Object.assign(this, { rows: [], ran: -1, folded: 1, start: Infinity, stop: -Infinity });
  }

  child(name) {
    let child = this.children.get(name);
    if (child === undefined) {
      child = new TreeNode(name, this);
      this.children.set(name, child);
    }
    return child;
  }

  /** The node below this one at the end of these names; undefined where there is none. */
  descend(names) {
    return names.reduce((node, name) => node?.children.get(name), this);
  }

  get isLeaf() {
    return this.children.size === 0;
  }

  /** The names from the root's child down to this node. */
  get parts() {
    return this.parent ? [...this.parent.parts, this.name] : [];
  }

  add(other) {
    for (const sum of ["calls", "runs", "host", "device", "bytes", "flops"]) this[sum] += other[sum];
    this.start = Math.min(this.start, other.start);
    this.stop = Math.max(this.stop, other.stop);
  }

  /** What the subtree is made of, whatever the times: nodes of one make can be folded. */
  get make() {
    this.madeOf ??= [...this.children.values()].map((child) => `${child.name}(${child.make})`).join();
    return this.madeOf;
  }
}

const TreeModel = {
  OUTSIDE: "outside of steps", // where calls without a label are

  /** The names on the way to what has this label. */
  names(trace, path) {
    const parts = trace.paths.parts(path);
    return parts.length ? parts : [TreeModel.OUTSIDE];
  },

  /** The operations below a node: [name, {runs, time}], those with most time on the device first. */
  operations(node, found = new Map()) {
    if (node.isLeaf && node.runs) {
      const { runs, time } = found.get(node.name) ?? { runs: 0, time: 0 };
      found.set(node.name, { runs: runs + node.runs, time: time + node.device });
    }
    for (const child of node.children.values()) TreeModel.operations(child, found);
    return [...found].sort((a, b) => b[1].time - a[1].time);
  },

  /** The tree of a whole trace. */
  of(trace) {
    const root = new TreeNode("", null);
    const nodes = new Map();
    const leaf = (path, name) => {
      if (!nodes.has(path))
        nodes.set(
          path,
          TreeModel.names(trace, path).reduce((at, part) => at.child(part), root),
        );
      return nodes.get(path).child(name);
    };
    for (let row = 0; row < trace.numCalls; row++)
      TreeModel.addCall(trace, leaf(trace.path[row], trace.name(row)), row);
    for (let i = 0; i < trace.numActivities; i++)
      TreeModel.addRan(trace, leaf(trace.ranPath[i], trace.ranTitle(i)), i);
    TreeModel.sum(root);
    return root;
  },

  addCall(trace, leaf, row) {
    leaf.calls += 1;
    leaf.host += trace.duration[row];
    leaf.rows.push(row);
    leaf.start = Math.min(leaf.start, trace.start[row]);
    leaf.stop = Math.max(leaf.stop, trace.stop[row]);
  },

  /** Bytes and flops count once a run: a product may be several kernels, a captured call runs at every launch. */
  addRan(trace, leaf, i) {
    const origin = trace.ranOrigin[i];
    leaf.runs += 1;
    if (leaf.ran < 0) leaf.ran = i;
    leaf.device += trace.ranTime(i);
    const again = i > 0 && trace.ranOrigin[i - 1] === origin && trace.ranCall[i - 1] === trace.ranCall[i];
    if (origin >= 0 && !again) {
      leaf.bytes += trace.field(origin, "bytes") ?? 0;
      leaf.flops += trace.field(origin, "flops") ?? 0;
    }
    leaf.start = Math.min(leaf.start, trace.start[trace.ranCall[i]]);
    leaf.stop = Math.max(leaf.stop, trace.stop[trace.ranCall[i]]);
  },

  sum(node) {
    for (const child of node.children.values()) {
      TreeModel.sum(child);
      node.add(child);
    }
  },

  /** The children to show: runs of numbered siblings of one make become one node, where `fold(word)` says so. */
  shown(node, fold) {
    const groups = [];
    for (const child of node.children.values()) {
      const [, word, number] = /^(.*?)(\d+)$/.exec(child.name) ?? [];
      const last = groups[groups.length - 1];
      const folds =
        word !== undefined && fold(word.trim()) && last?.word === word && last.nodes[0][0].make === child.make;
      if (folds) last.nodes.push([child, number]);
      else groups.push({ word, nodes: [[child, number]] });
    }
    return groups.map(({ word, nodes }) =>
      nodes.length === 1 ? nodes[0][0] : TreeModel.folded(node, word, nodes),
    );
  },

  folded(parent, word, nodes) {
    const numbers = nodes.map(([, number]) => Number(number)).sort((a, b) => a - b);
    const name = `${word.trim()}s ${Format.ranges(numbers)}`;
    parent.foldedNodes ??= new Map();
    if (!parent.foldedNodes.has(name))
      parent.foldedNodes.set(
        name,
        TreeModel.merged(
          name,
          parent,
          nodes.map(([node]) => node),
        ),
      );
    return parent.foldedNodes.get(name);
  },

  /** One node for several of one make: sums, and children merged by name. */
  merged(name, parent, nodes) {
    const result = new TreeNode(name, parent);
    result.folded = nodes.length;
    for (const node of nodes) {
      result.add(node);
      for (const row of node.rows) result.rows.push(row);
      if (result.ran < 0) result.ran = node.ran;
    }
    for (const child of nodes[0].children.keys()) {
      result.children.set(
        child,
        TreeModel.merged(
          child,
          result,
          nodes.map((node) => node.children.get(child)),
        ),
      );
    }
    if (!result.isLeaf) for (const child of result.children.values()) child.folded = 1;
    return result;
  },
};
