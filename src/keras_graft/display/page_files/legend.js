"use strict";
/* What colours and signs mean: only those that this network has. */

const Legend = (() => {
  const { html } = Dom;

  function fill(network) {
    const items = [...network.items.values()];
    const list = Dom.at("legend-list");
    const families = new Map(items.filter((i) => i.type === "node").map((i) => Kinds.family(i)).map((f) => [f[0], f[1]]));
    const entry = (mark, text) => list.append(html("li", {}, mark, html("span", { text })));
    if (network.scene.kind === "diff") {
      for (const [change, [sign, word]] of Object.entries(Kinds.CHANGES)) {
        if (items.some((i) => i.change === change)) entry(html("span", { class: `sign change ${change}`, text: sign }), word);
      }
      if (items.some((i) => i.may_differ)) entry(html("span", { class: "word differs", text: "may differ" }), "output may differ from the old model's");
    }
    for (const [name, word] of families) entry(html("span", { class: `swatch family-${name}` }), word);
    const states = new Set(items.map((i) => i.state));
    for (const [state, sign] of [["trainable", "●"], ["frozen", "✳"], ["mixed", "◐"]]) {
      if (states.has(state)) entry(html("span", { class: "sign", text: sign }), Kinds.STATES[state]);
    }
    if (items.some((i) => i.shared)) entry(html("span", { class: "word shared", text: "shared" }), "called more than once");
    if (items.some((i) => i.ties && i.ties.length)) entry(html("span", { class: "word tied", text: "tied" }), "uses a variable of another layer");
    if (network.scene.edges.some((e) => e[3] === "mask")) entry(html("span", { class: "dashes" }), "mask");
  }

  return { fill };
})();
