"use strict";
/* The scene as a tree of groups, and what of it can be seen while some groups are closed. */

class Network {
  constructor(scene) {
    this.scene = scene;
    this.items = new Map(Object.entries(scene.items));
    this.open = new Set();
    this.children = new Map([[null, []]]);
    this.place = new Map();
    for (const [id, item] of this.items) {
      item.id = id;
      this.place.set(id, this.place.size);
      if (item.type === "group") this.children.set(id, []);
    }
    for (const [id, item] of this.items) {
      if (!this.children.has(item.parent)) item.parent = null;
      this.children.get(item.parent).push(id);
    }
    this.edges = scene.edges.filter(([a, b]) => this.items.has(a) && this.items.has(b));
    this.nodes = [...this.items.keys()].filter((id) => !this.isGroup(id));
    this.groups = [...this.items.keys()].filter((id) => this.isGroup(id));
    this.leaves = new Map();
    for (const id of this.nodes) {
      for (const group of this.around(id)) {
        if (!this.leaves.has(group)) this.leaves.set(group, []);
        this.leaves.get(group).push(id);
      }
    }
  }

  get(id) {
    return this.items.get(id);
  }

  isGroup(id) {
    return this.items.get(id).type === "group";
  }

  isOpen(id) {
    return this.open.has(id);
  }

  /** The groups around an item, the innermost first. */
  around(id) {
    const found = [];
    for (let at = this.items.get(id).parent; at !== null; at = this.items.get(at).parent) found.push(at);
    return found;
  }

  /** Nodes inside a group, or the item itself. */
  inside(id) {
    return this.isGroup(id) ? this.leaves.get(id) || [] : [id];
  }

  /** The box in which an item is seen: itself, or the outermost closed group that hides it. */
  seen(id) {
    let box = id;
    for (const group of this.around(id)) if (!this.open.has(group)) box = group;
    return box;
  }

  isSeen(id) {
    return this.seen(id) === id;
  }

  /** Open every group around an item; returns whether any was closed. */
  reveal(id) {
    const closed = this.around(id).filter((group) => !this.open.has(group));
    closed.forEach((group) => this.open.add(group));
    return closed.length > 0;
  }

  /** The boxes that can be seen, outer before inner, in the order of the graph. */
  boxes() {
    const found = [];
    const visit = (id) => {
      found.push(id);
      if (this.open.has(id)) this.children.get(id).forEach(visit);
    };
    this.children.get(null).forEach(visit);
    return found;
  }

  /** The edges between boxes that can be seen, each once: [from, to, spec, kind]. */
  lines() {
    const seen = new Map();
    const boxOf = (id) => {
      if (!seen.has(id)) seen.set(id, this.seen(id));
      return seen.get(id);
    };
    const found = new Map();
    for (const [a, b, spec, kind] of this.edges) {
      const from = boxOf(a);
      const to = boxOf(b);
      const key = `${from} ${to}`;
      if (from === to) continue;
      // A mask beside a tensor needs no second line.
      if (!found.has(key) || (found.get(key)[3] === "mask" && kind !== "mask")) found.set(key, [from, to, spec, kind]);
    }
    return [...found.values()];
  }

  /** The nodes that `id` needs, with itself: the side of a cut that lies at the inputs. */
  needed(id) {
    if (!this.sources) {
      this.sources = new Map();
      for (const [a, b] of this.edges) {
        if (!this.sources.has(b)) this.sources.set(b, []);
        this.sources.get(b).push(a);
      }
    }
    const found = new Set([id]);
    const left = [id];
    while (left.length) {
      for (const source of this.sources.get(left.pop()) || []) {
        if (!found.has(source)) {
          found.add(source);
          left.push(source);
        }
      }
    }
    return found;
  }

  /** How many nodes in a box have each change of a diff. */
  changes(id) {
    const counts = { new: 0, dropped: 0, changed: 0 };
    for (const node of this.inside(id)) {
      const change = this.get(node).change;
      if (change in counts) counts[change] += 1;
    }
    return counts;
  }
}
