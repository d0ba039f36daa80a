"use strict";
/* All nodes as a table, for people who cannot see the picture, and for those who like to sort by eye. */

class NodeTable {
  constructor(network, picture) {
    this.network = network;
    this.picture = picture;
    this.rows = new Map();
    this.place = Dom.at("table");
  }

  fill() {
    if (this.rows.size) return;
    const diff = this.network.scene.kind === "diff";
    const heads = ["Name", "Kind", "Output", "Parameters", "Compute", "Notes"];
    if (diff) heads.unshift("Change");
    const body = Dom.html("tbody");
    for (const id of this.network.nodes) {
      const item = this.network.get(id);
      const cells = [
        Dom.html("th", { scope: "row" }, Dom.html("button", { type: "button", text: item.path || item.label, dir: "ltr", onclick: () => this.picture.select(id) })),
        Dom.html("td", { text: item.type === "node" ? item.kind : item.type }),
        Dom.html("td", { class: "spec", text: item.spec }),
        Dom.html("td", { class: "number", text: item.parameters ? Dom.number(item.parameters) : "" }),
        Dom.html("td", { class: "number", text: item.share ? Dom.percent(item.share) : "" }),
        Dom.html("td", { class: "notes", text: this.notes(item) }),
      ];
      if (diff) cells.unshift(Dom.html("td", { class: `change ${item.change || ""}`, text: item.change ? Kinds.CHANGES[item.change].join(" ") : "" }));
      const row = Dom.html("tr", { "data-id": id }, ...cells);
      this.rows.set(id, row);
      body.append(row);
    }
    const caption = Dom.html("caption", { text: `${Dom.plural(this.rows.size, "node")} of ${this.network.scene.name}, in order` });
    const head = Dom.html("thead", {}, Dom.html("tr", {}, ...heads.map((text) => Dom.html("th", { scope: "col", text, class: ["Parameters", "Compute"].includes(text) && "number" }))));
    this.place.replaceChildren(Dom.html("table", {}, caption, head, body));
  }

  notes(item) {
    const group = this.network.around(item.id).map((id) => this.network.get(id).label);
    const place = group.length ? [`in ${group.reverse().join(" / ")}`] : [];
    return [...Describe.notes(this.network, item).filter((note) => note !== Kinds.CHANGES[item.change]?.[1]), ...place].join("; ");
  }

  show(on) {
    if (on) this.fill();
    this.place.hidden = !on;
    this.refresh();
  }

  refresh() {
    if (this.place.hidden) return;
    const found = this.picture.search.found;
    const lit = new Set(found ? found.ids : []);
    for (const [id, row] of this.rows) {
      row.classList.toggle("lit", lit.has(id));
      row.classList.toggle("chosen", this.picture.chosen === id);
    }
  }
}
