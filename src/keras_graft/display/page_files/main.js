"use strict";
/* Put the page together. */

(async () => {
  const scene = JSON.parse(Dom.at("scene").textContent);
  const network = new Network(scene);
  head(scene, network);
  const picture = new Picture(network);

  if (scene.kind === "diff") openChanges(network);
  const actions = {
    search: () => Dom.at("search").focus(),
    nearer: () => Camera.zoom(1.25),
    farther: () => Camera.zoom(0.8),
    fit: () => Camera.fit(),
    help: () => Dom.at("help").showModal(),
    table: () => table(picture),
    open: () => picture.toggleAll(true),
    close: () => picture.toggleAll(false),
    theme: () => Theme.turn(),
    cuts: () => side(),
    unpin: () => picture.select(null),
    escape: () => escape(picture),
  };
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => actions[button.dataset.act]());
  }
  Keys.start(picture, actions);
  Legend.fill(network);
  picture.inform();
  await picture.relayout(null);
  picture.begin();
  document.documentElement.dataset.ready = "yes";
  performance.mark("usable");

  function head({ name, totals, kind }) {
    Dom.at("name").textContent = name;
    document.body.classList.toggle("diff", kind === "diff");
    const words = kind === "diff" ? [changes()] : [];
    words.push(Dom.plural(totals.nodes, "layer"));
    if (totals.operations !== totals.nodes) words[words.length - 1] += ` (${Dom.number(totals.operations)} different)`;
    words.push(`${Dom.short(totals.parameters)} parameters`);
    if (totals.frozen && totals.trainable) words.push(`${Dom.short(totals.trainable)} trainable`);
    else if (totals.parameters) words.push(totals.trainable ? "all trainable" : "all frozen");
    words.push(...costs(totals.change || {}));
    Dom.at("totals").textContent = words.join(" · ");
    const folding = network.groups.length > 0;
    for (const act of ["open", "close"]) document.querySelector(`[data-act=${act}]`).hidden = !folding;
  }

  function changes() {
    const nodes = [...network.items.values()].filter((item) => item.type === "node");
    const count = (change) => nodes.filter((item) => item.change === change).length;
    return ["new", "dropped", "changed"].map((change) => `${Dom.number(count(change))} ${change}`).join(", ");
  }

  /** In a diff: by which share the costs of one sample changed. */
  function costs(change) {
    const names = { multiply_adds: "multiply-adds", activation_bytes: "bytes of values" };
    const share = (part) => `${part > 0 ? "+" : "−"}${(100 * Math.abs(part)).toFixed(1)}%`;
    return Object.entries(names).filter(([name]) => change[name]).map(([name, told]) => `${share(change[name])} ${told}`);
  }

  /** In a diff, show at once what changed. */
  function openChanges() {
    for (const id of network.groups) {
      const { new: added, dropped, changed } = network.changes(id);
      const count = added + dropped + changed;
      if (count && count < network.inside(id).length) network.open.add(id);
    }
  }

  function table() {
    const button = document.querySelector("[data-act=table]");
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    document.body.classList.toggle("as-table", on);
    picture.table.show(on);
  }

  /** In a narrow window the cuts lie above the picture. */
  function side() {
    const open = document.body.classList.toggle("with-cuts");
    document.querySelector("[data-act=cuts]").setAttribute("aria-expanded", String(open));
  }

  function escape() {
    if (picture.panel.contains(document.activeElement) && picture.chosen) {
      Draw.element(network.seen(picture.chosen)).focus();
      return;
    }
    if (idOf(document.activeElement) && !picture.chosen && picture.cuts.chosen === null) Dom.at("search").focus();
    else if (picture.chosen) picture.select(null);
    else if (picture.cuts.chosen !== null) picture.cuts.choose(null);
    else if (picture.search.field.value) picture.search.clear();
    else if (document.activeElement) document.activeElement.blur();
  }
})();
