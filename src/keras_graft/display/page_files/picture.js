"use strict";
/* The picture and what happens in it: fold, select, light up, tint. */

class Picture {
  constructor(network) {
    this.network = network;
    this.svg = Dom.at("picture");
    this.panel = Dom.at("panel");
    this.chosen = null;
    this.pointed = null;
    this.places = {};
    Camera.start(this.svg, Draw.start(this.svg));
    this.search = new Search(network, this);
    this.cuts = new CutList(network, this);
    this.table = new NodeTable(network, this);
    this.svg.addEventListener("click", (event) => this.clicked(event));
    this.svg.addEventListener("dblclick", (event) => {
      const id = idOf(event.target);
      if (id && this.network.isGroup(id) && !event.target.closest(".sign")) this.toggle(id);
    });
    this.svg.addEventListener("pointerover", (event) => this.point(idOf(event.target)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("focusin", (event) => this.focused(idOf(event.target)));
    this.svg.addEventListener("focusout", () => this.point(null));
  }

  /** Lay out what is seen, draw it, and keep `anchor` where it is on the screen. */
  async relayout(anchor) {
    const before = anchor && this.places[anchor] ? Camera.onScreen(this.places[anchor]) : null;
    const lines = this.network.lines();
    const boxes = this.network.boxes().map((id) => {
      const open = this.network.isOpen(id);
      const { w, h } = open ? { w: 220, h: 0 } : Draw.size(this.network, id);
      return { id, parent: this.network.get(id).parent, w, h, open };
    });
    document.documentElement.dataset.busy = "yes";
    const slow = setTimeout(() => (Dom.at("busy").hidden = false), 60);
    const focused = idOf(document.activeElement);
    const layout = await Layouts.run({ boxes, lines: lines.map(([a, b]) => [a, b]) });
    clearTimeout(slow);
    Dom.at("busy").hidden = true;
    this.places = layout.places;
    Camera.resize(layout.width, layout.height);
    Draw.draw(this.network, lines, layout);
    if (before) Camera.keep(before, this.places[anchor]);
    this.refresh();
    if (this.pointed && !this.places[this.pointed]) this.point(null);
    const element = focused && Draw.element(this.network.seen(focused));
    if (element) element.focus({ preventScroll: true });
    document.documentElement.dataset.busy = "no";
  }

  begin() {
    const first = this.network.boxes()[0];
    Camera.begin(first && this.places[first]);
  }

  async toggle(id) {
    const open = !this.network.isOpen(id);
    if (open) this.network.open.add(id);
    else this.network.open.delete(id);
    const { label } = this.network.get(id);
    await this.relayout(id);
    this.search.show();
    this.inform();
    Dom.say(`${open ? "Opened" : "Closed"} ${label}`);
  }

  async toggleAll(open) {
    if (open) this.network.groups.forEach((id) => this.network.open.add(id));
    else this.network.open.clear();
    await this.relayout(null);
    this.search.show();
    this.begin();
    this.inform();
    Dom.say(open ? "All groups are open" : "All groups are closed");
  }

  clicked(event) {
    const id = idOf(event.target);
    if (id && event.target.closest(".sign") && this.network.isGroup(id)) this.toggle(id);
    else this.select(id);
  }

  /** Select an item, or nothing; `go` moves the picture and the focus to it. */
  select(id, go = false) {
    this.chosen = id;
    this.refresh();
    this.inform();
    if (!id || !go) return;
    const seen = this.network.seen(id);
    this.bring(seen);
    Dom.say(Describe.line(this.network, this.network.get(seen)));
  }

  /** Open what hides an item, and go to it. */
  async reveal(id) {
    if (this.network.reveal(id)) await this.relayout(null);
    this.select(id, true);
  }

  bring(id) {
    const over = getComputedStyle(this.panel);
    const covered = over.position === "absolute" && over.visibility === "visible";
    if (this.places[id]) Camera.show(this.places[id], covered && this.panel.getBoundingClientRect());
  }

  point(id) {
    if (this.pointed === id) return;
    this.pointed = id;
    this.inform();
    this.near();
  }

  focused(id) {
    if (!id) return;
    // A click shows itself; only the keyboard needs the picture to follow.
    if (Draw.element(id)?.matches(":focus-visible")) this.bring(id);
    this.point(id);
  }

  /** Fill the panel: with what is pointed at, else with what is selected. */
  inform() {
    document.body.classList.toggle("pinned", Boolean(this.chosen));
    const id = this.pointed || this.chosen;
    const shown = id && this.network.get(id);
    // What is said stays as it is, with the focus in it.
    const about = id && `${id} ${this.network.isOpen(id)}`;
    if (this.about === about) return;
    this.about = about;
    if (shown) Dom.at("panel-content").replaceChildren(...Describe.panel(this.network, shown, this));
    else Dom.at("panel-content").replaceChildren(...Describe.overview(this.network, this.search, (id) => this.reveal(id)));
  }

  /** Mark the lines of the box that is pointed at. */
  near() {
    const id = this.pointed || this.chosen;
    for (const { element, from, to } of Draw.lines()) {
      element.classList.toggle("into", to === id);
      element.classList.toggle("out", from === id);
    }
  }

  /** Give each box its marks: selected, found, on which side of a cut. */
  refresh() {
    const lit = this.search.lit();
    const marks = [];
    document.body.classList.toggle("searching", Boolean(this.search.found && this.search.found.count));
    document.body.classList.toggle("cutting", this.cuts.chosen !== null);
    const chosen = this.chosen && this.network.seen(this.chosen);
    for (const [id, element] of Draw.elements()) {
      const side = this.cuts.side(id);
      element.classList.toggle("chosen", id === chosen);
      element.classList.toggle("lit", lit.has(id));
      for (const name of ["first", "second", "both"]) element.classList.toggle(name, side === name);
      element.setAttribute("aria-pressed", String(id === chosen));
      if (lit.has(id) && this.network.isGroup(id)) marks.push(this.badge(id, lit.get(id)));
    }
    const cut = this.cuts.edge();
    if (cut && this.places[cut]) marks.push(this.scissors(cut));
    Draw.layer("marks").replaceChildren(...marks);
    this.near();
    this.table.refresh();
  }

  badge(id, count) {
    const { x, y } = this.places[id];
    const text = String(count);
    const wide = 12 + 7 * text.length;
    return Dom.svg("g", { class: "found", transform: `translate(${x - wide / 2} ${y - 9})` },
      Dom.svg("rect", { width: wide, height: 18, rx: 9 }), Dom.svg("text", { x: wide / 2, y: 13, text }));
  }

  scissors(id) {
    const { x, y, w, h } = this.places[id];
    const at = y + h + 9;
    return Dom.svg("g", { class: "scissors" },
      Dom.svg("path", { d: `M${x - 60} ${at}H${x + w + 60}` }),
      Dom.svg("text", { x: x + w + 66, y: at + 4, text: "cut" }));
  }
}

/** The item that an element of the picture stands for. */
function idOf(element) {
  const box = element && element.closest ? element.closest("#picture [data-id]") : null;
  return box ? box.dataset.id : null;
}
