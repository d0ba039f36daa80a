"use strict";
/* What is said about an item: in one line for screen readers, and in the panel. */

const Describe = (() => {
  const { html } = Dom;

  function notes(network, item) {
    const found = [];
    if (item.state && item.state !== "none") found.push(Kinds.STATES[item.state] || item.state);
    if (item.shared) found.push(`shared: ${item.shared}`);
    if (item.ties && item.ties.length) found.push(`tied: ${item.ties.join(", ")}`);
    if (item.change && Kinds.CHANGES[item.change]) found.push(Kinds.CHANGES[item.change][1]);
    if (item.may_differ) found.push("output may differ");
    return found;
  }

  function line(network, item) {
    const what = item.type === "group" ? groupWords(network, item) : item.type === "node" ? item.kind : item.type;
    const parts = [item.label || item.kind, what, item.spec, ...notes(network, item)];
    if (item.parameters) parts.push(Dom.plural(item.parameters, "parameter"));
    return parts.filter(Boolean).join(", ");
  }

  function groupWords(network, item) {
    const count = Dom.plural(network.inside(item.id).length, "layer");
    if (item.times) return `${item.times} equal blocks, ${count}`;
    return `${item.kind === "block" ? "block" : item.kind}, ${count}`;
  }

  function row(name, value, more) {
    const shown = typeof value === "string" ? html("dd", { text: value }) : html("dd", {}, value);
    return [html("dt", { text: name }), shown, more].filter(Boolean);
  }

  function specs(list) {
    return html("span", { class: "specs" }, ...list.map((spec) => html("code", { text: spec })));
  }

  /** The content of the panel for an item. */
  function panel(network, item, actions) {
    const [family] = Kinds.family(item);
    const kind = item.type === "group" ? groupWords(network, item) : item.type === "node" ? item.kind : { input: "Input", output: "Output" }[item.type] || item.type;
    const rows = [];
    if (item.inputs && item.inputs.length) rows.push(...row(item.inputs.length > 1 ? "Inputs" : "Input", specs(item.inputs)));
    if (item.spec) rows.push(...row("Output", specs(item.spec.split("; "))));
    if (item.type === "group" || item.type === "node") {
      rows.push(...row("Parameters", parameters(item)));
      if (item.cost) rows.push(...row("Cost", cost(item)));
    }
    if (item.shared) rows.push(...row("Shared", item.shared));
    if (item.ties && item.ties.length) rows.push(...row("Tied", specs(item.ties)));
    if (item.change) rows.push(...row("Change", html("span", { class: `change ${item.change}`, text: Kinds.CHANGES[item.change].join(" ") })));
    if (item.may_differ) rows.push(...row("Output", "may differ from the old model's"));
    const open = item.type === "group" && html("button", {
      type: "button", class: "wide", text: network.isOpen(item.id) ? "Close this group" : "Open this group",
      onclick: () => actions.toggle(item.id),
    });
    return [
      html("header", {},
        html("span", { class: `chip family-${family}`, text: kind }),
        html("h2", { text: item.label || item.kind, dir: "ltr" }),
        item.path && item.path !== item.label && html("p", { class: "path", text: item.path })),
      html("dl", {}, ...rows),
      item.select && html("section", {}, html("h3", { text: "Select it" }), Dom.call(item.select)),
      item.arguments && item.arguments.length && html("section", {}, html("h3", { text: "Arguments" }), argumentList(item.arguments)),
      open,
    ].filter(Boolean);
  }

  function parameters(item) {
    if (!item.parameters) return "none";
    const words = Kinds.STATES[item.state] || "";
    const part = item.state === "mixed" ? `, ${Dom.number(item.trainable)} trainable` : "";
    return `${Dom.number(item.parameters)} (${words}${part})`;
  }

  function cost(item) {
    const share = item.share !== null && item.share !== undefined ? ` (${Dom.percent(item.share)})` : "";
    return `${Dom.short(item.cost)} multiplications a sample${share}`;
  }

  function argumentList(pairs) {
    const list = html("dl", { class: "arguments" });
    for (const [name, value] of pairs) list.append(html("dt", { text: name }), html("dd", { text: value }));
    return list;
  }

  /** The panel while nothing is selected: the model as a whole. A kind of layer starts a search. */
  function overview(network, search, reveal) {
    const nodes = network.nodes.map((id) => network.get(id));
    const ends = (type) => nodes.filter((i) => i.type === type).map((i) => `${i.label} ${i.spec}`);
    const kinds = new Map();
    for (const { kind, type } of nodes) if (type === "node") kinds.set(kind, (kinds.get(kind) || 0) + 1);
    const most = [...kinds].sort((a, b) => b[1] - a[1]);
    const family = (kind) => Kinds.family({ type: "node", kind })[0];
    const list = html("ul", { class: "kinds" }, ...most.map(([kind, count]) => html("li", {},
      html("button", { type: "button", onclick: () => search.ask(kind), "aria-label": `Find ${kind}` },
        html("span", { class: `swatch family-${family(kind)}` }), html("span", { text: kind }), html("span", { class: "count", text: Dom.number(count) })))));
    const inputs = ends("input");
    const outputs = ends("output");
    return [
      html("dl", { class: "ends" },
        ...(inputs.length ? row(inputs.length > 1 ? "Inputs" : "Input", specs(inputs)) : []),
        ...(outputs.length ? row(outputs.length > 1 ? "Outputs" : "Output", specs(outputs)) : [])),
      network.scene.kind === "diff" && changes(nodes, reveal),
      html("section", {}, html("h3", { text: "Kinds of layers" }), list),
      html("p", { class: "hint", text: "Point at a box or select one to read about it." }),
    ].filter(Boolean);
  }

  /** What a diff found, each a button that leads to it. */
  function changes(nodes, reveal) {
    const found = nodes.filter((item) => item.type === "node" && item.change && item.change !== "kept");
    const list = found.map((item) => html("li", {}, html("button", { type: "button", onclick: () => reveal(item.id) },
      html("span", { class: `change ${item.change}`, text: Kinds.CHANGES[item.change][0] }), html("span", { text: item.path || item.label }),
      html("span", { class: "count", text: Kinds.CHANGES[item.change][1] }))));
    return html("section", {}, html("h3", { text: found.length ? "Changes" : "No layer changed" }), html("ul", { class: "kinds changes" }, ...list));
  }

  return { line, panel, notes, overview };
})();
