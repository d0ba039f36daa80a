"use strict";
/* The list of cuts along the side. The chosen one splits the picture into two stages. */

class CutList {
  constructor(network, picture) {
    this.network = network;
    this.picture = picture;
    this.cuts = network.scene.cuts || [];
    this.chosen = null;
    this.below = null;
    const list = Dom.at("cut-list");
    Dom.at("cut-count").textContent = this.cuts.length ? Dom.number(this.cuts.length) : "";
    this.rows = this.cuts.map((cut, i) => this.row(cut, i));
    list.replaceChildren(...this.rows);
    if (!this.cuts.length) {
      Dom.at("cuts").hidden = true;
      Dom.at("cuts-toggle").hidden = true;
    }
    list.addEventListener("keydown", (event) => this.key(event));
  }

  row(cut, i) {
    const share = cut.share ?? null;
    const bar = Dom.html("span", { class: "bar", "aria-hidden": "true" }, Dom.html("span", {}));
    bar.firstChild.style.width = `${Math.round((share || 0) * 100)}%`;
    const words = [`Cut after ${cut.name}`, cut.bytes_text && `${cut.bytes_text} a sample`, share !== null && `${Dom.percent(share)} of compute before it`];
    const button = Dom.html("button", {
      type: "button", "aria-expanded": "false", "aria-label": words.filter(Boolean).join(", "), onclick: () => this.choose(this.chosen === i ? null : i),
    }, Dom.html("span", { class: "name", text: cut.name, dir: "ltr" }), Dom.html("span", { class: "size", text: cut.bytes_text || "" }), bar);
    return Dom.html("li", {}, button);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const at = this.rows.findIndex((row) => row.firstChild === document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = this.rows[at + step];
    if (next) next.firstChild.focus();
  }

  choose(i) {
    if (this.chosen !== null) {
      const row = this.rows[this.chosen];
      row.classList.remove("chosen");
      row.firstChild.setAttribute("aria-expanded", "false");
      row.querySelector(".detail").remove();
    }
    this.chosen = i;
    this.below = i === null ? null : this.network.needed(this.cuts[i].after);
    if (i !== null) {
      const row = this.rows[i];
      row.classList.add("chosen");
      row.firstChild.setAttribute("aria-expanded", "true");
      row.append(this.detail(this.cuts[i]));
      row.scrollIntoView({ block: "nearest" });
      Dom.say(`Cut after ${this.cuts[i].name}`);
    }
    this.picture.refresh();
    if (i !== null) this.picture.bring(this.network.seen(this.cuts[i].after));
  }

  detail(cut) {
    const stage = (name, mark, weights, share) => Dom.html("div", { class: `stage ${mark}` },
      Dom.html("h3", { text: name }),
      Dom.html("p", { text: Dom.plural(weights, "parameter") }),
      share !== null && Dom.html("p", { text: `${Dom.percent(share)} of compute` }));
    const share = cut.share ?? null;
    const hidden = !this.network.isSeen(cut.after);
    return Dom.html("div", { class: "detail" },
      stage("First stage", "first", cut.below, share),
      Dom.html("p", { class: "between" }, Dom.html("strong", { text: cut.bytes_text ? `${cut.bytes_text} a sample` : "" }), Dom.html("code", { text: cut.output })),
      stage("Second stage", "second", cut.above, share === null ? null : 1 - share),
      cut.call && Dom.call(cut.call),
      hidden && Dom.html("button", { type: "button", class: "wide", text: "Show it in the picture", onclick: () => this.picture.reveal(cut.after) }));
  }

  /** "first", "second" or "both": on which sides of the chosen cut a box lies. */
  side(id) {
    if (!this.below) return null;
    const inside = this.network.inside(id);
    const count = inside.filter((node) => this.below.has(node)).length;
    return count === 0 ? "second" : count === inside.length ? "first" : "both";
  }

  /** The box below which the cut is drawn, if it does not lie inside a closed group. */
  edge() {
    if (this.chosen === null) return null;
    const { after } = this.cuts[this.chosen];
    const seen = this.network.seen(after);
    return this.side(seen) === "first" ? seen : null;
  }
}
