"use strict";
/* The texts that kg.select takes, on the items of a scene. The counts are those of kg.select. */

class Selector {
  constructor(network) {
    this.network = network;
    this.levels = new Map([["", []]]);
    this.nested = false;
    for (const [id, item] of network.items) {
      const model = item.type === "group" && item.kind !== "block" && item.kind !== "repeat";
      if (!item.path || (item.type !== "node" && item.type !== "input" && !model)) continue;
      // In a diff, what was dropped is not in the new model.
      if (item.change === "dropped") continue;
      const slash = item.path.lastIndexOf("/");
      const label = item.path.slice(slash + 1);
      const [, name, call] = /^([^]*?)(?:#(\d+))?$/.exec(label);
      const entry = { id, name, call: Number(call || 0), path: item.path, model, input: item.type === "input", outputs: (item.spec || "").split("; ").length };
      this.level(item.path.slice(0, Math.max(0, slash))).push(entry);
      if (!model) continue;
      this.nested = true;
      // The inputs of a nested model can be selected, and are drawn as the model's box.
      for (const input of item.inner_inputs || []) {
        this.level(item.path).push({ id: `${id}:${input}`, box: id, name: input, call: 0, path: `${item.path}/${input}`, model: false, input: true, outputs: 1 });
      }
    }
  }

  level(scope) {
    if (!this.levels.has(scope)) this.levels.set(scope, []);
    return this.levels.get(scope);
  }

  /** What a text finds: {ids, count, call, how}; null for an empty text. */
  find(text) {
    if (!text.trim()) return null;
    const call = `kg.select(model, ${quoted(text)})`;
    const found = this.unique(this.byText(text, ""));
    if (found.length) return this.result(found, call, "selector");
    this.unclear = false;
    const ends = this.unique(this.byText(text, "", true));
    if (ends.length) return this.result(ends, this.unclear ? null : call, this.unclear ? "ends" : "block");
    const kinds = this.nodes().filter((e) => this.network.get(e.id).kind === text);
    if (kinds.length) return this.result(kinds, `kg.select(model, lambda node: node.kind == ${quoted(text)})`, "class");
    const looser = this.anywhere(text);
    const near = looser ? this.unique(this.byText(looser, "")) : [];
    return this.result(near, near.length ? `kg.select(model, ${quoted(looser)})` : null, near.length ? "part" : "none");
  }

  result(entries, call, how) {
    return { ids: entries.map((e) => e.box || e.id), count: entries.length, call, how };
  }

  /** A glob for names that contain a text. */
  anywhere(text) {
    if (/[*?[/#:]/.test(text)) return null;
    return `${this.nested ? "**/" : ""}*${text}*`;
  }

  unique(entries) {
    return [...new Map(entries.map((e) => [e.id, e])).values()];
  }

  nodes() {
    return [...this.levels.values()].flat().filter((e) => !e.input);
  }

  /** What a path selects; with `blocks`, the ends of blocks whose names begin so. */
  byText(text, scope, blocks = false) {
    const slash = text.indexOf("/");
    const head = slash < 0 ? text : text.slice(0, slash);
    let rest = slash < 0 ? "" : text.slice(slash + 1);
    if (slash >= 0 && head === "**") {
      while (rest.startsWith("**/")) rest = rest.slice(3);
      const inner = this.models(this.level(scope)).flatMap((e) => this.byText(`**/${rest}`, e.path, blocks));
      return [...this.byText(rest, scope, blocks), ...inner];
    }
    if (text === "**" && !this.exact(text, scope).length) return this.everything(scope);
    if (slash < 0) return blocks ? this.endsOfBlock(text, scope) : this.atLevel(text, scope);
    return this.models(this.atLevel(head, scope)).flatMap((e) => this.byText(rest, e.path, blocks));
  }

  models(entries) {
    return entries.filter((e) => e.model);
  }

  everything(scope) {
    return this.level(scope).filter((e) => !e.input).flatMap((e) => [e, ...(e.model ? this.everything(e.path) : [])]);
  }

  exact(text, scope) {
    return this.level(scope).filter((e) => e.name === text);
  }

  /** One segment of a path: the exact name first, then call and output, then glob. */
  atLevel(text, scope) {
    const exact = this.exact(text, scope);
    if (exact.length) return exact;
    const [, name, call, output] = /^([^]*?)(?:#([0-9]{1,9}))?(?::([0-9]{1,9}))?$/.exec(text);
    const glob = /[*?[]/.test(name) ? globbed(name) : null;
    const found = this.level(scope).filter((e) => {
      if (e.name !== name && !(glob && glob.test(e.name))) return false;
      if (e.input) return glob && call === undefined && output === undefined;
      if (call !== undefined && e.call !== Number(call)) return false;
      return output === undefined || Number(output) < e.outputs;
    });
    return found;
  }

  /** The ends of the block whose names begin with a text: its nodes that are used outside it. */
  endsOfBlock(text, scope) {
    const block = new Map(
      this.level(scope)
        .filter((e) => !e.input && text && (e.name.startsWith(`${text}_`) || e.name.startsWith(`${text}/`)))
        .map((e) => [e, e.name.slice(text.length + 1)]),
    );
    if (block.size < 2 || [...block.values()].every((rest) => /^\d+$/.test(rest))) return [];
    const members = new Set([...block.keys()].flatMap((e) => this.network.inside(e.id)));
    const ends = [...block.keys()].filter((e) => {
      const own = new Set(this.network.inside(e.id));
      return this.network.edges.some(([from, to]) => own.has(from) && !members.has(to) && this.network.get(to).change !== "dropped");
    });
    this.unclear ||= ends.length > 1;
    return ends;
  }
}

/** A glob as Python's fnmatch reads it. */
function globbed(text) {
  let pattern = "";
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    const close = c === "[" ? text.indexOf("]", i + (text[i + 1] === "!" ? 3 : 2)) : -1;
    if (c === "*") pattern += "[^]*";
    else if (c === "?") pattern += "[^]";
    else if (close > 0) {
      const inside = text.slice(i + 1, close).replace(/[\\\]^[]/g, "\\$&");
      pattern += `[${inside.startsWith("!") ? `^${inside.slice(1)}` : inside}]`;
      i = close;
    } else pattern += c.replace(/[\\^$.|+()[\]{}/-]/g, "\\$&");
  }
  try {
    return new RegExp(`^${pattern}$`, "u");
  } catch {
    return /^(?!)/; // [z-a] matches nothing
  }
}

/** A text as a Python string. */
function quoted(text) {
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}
