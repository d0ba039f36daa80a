"use strict";
/* The search field: matches light up, with their count and the call to paste. */

class Search {
  constructor(network, picture) {
    this.picture = picture;
    this.network = network;
    this.selector = new Selector(network);
    this.found = null;
    this.turn = -1;
    this.field = Dom.at("search");
    this.field.addEventListener("input", () => this.look());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.step(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape" && this.field.value) {
        event.stopPropagation();
        this.clear();
      }
    });
    Dom.at("search-clear").addEventListener("click", () => {
      this.clear();
      this.field.focus();
    });
  }

  clear() {
    this.field.value = "";
    this.look();
  }

  ask(text) {
    this.field.value = text;
    this.look();
  }

  look() {
    this.found = this.selector.find(this.field.value);
    this.turn = -1;
    Dom.at("search-clear").hidden = !this.field.value;
    this.show();
    this.picture.refresh();
  }

  /** Which boxes light up: each box that is seen, with the number of matches in it. */
  lit() {
    const boxes = new Map();
    for (const id of this.found ? this.found.ids : []) {
      const seen = this.network.seen(id);
      boxes.set(seen, (boxes.get(seen) || 0) + 1);
    }
    return boxes;
  }

  show() {
    const bar = Dom.at("matches");
    bar.hidden = !this.found;
    if (!this.found) {
      bar.replaceChildren();
      return;
    }
    const { count, call, how } = this.found;
    const hidden = this.found.ids.some((id) => !this.network.isSeen(id));
    const words = {
      selector: Dom.plural(count, "match", "matches"),
      block: `${Dom.plural(count, "match", "matches")}: the last node of the block`,
      ends: `No node of this name; its block has ${count} ends: name one of them`,
      class: `${Dom.plural(count, "match", "matches")} of this class`,
      part: `No node of this name; ${Dom.plural(count, "name contains", "names contain")} it`,
      none: "No match",
    }[how];
    const button = (text, label, act) => Dom.html("button", { type: "button", text, "aria-label": label, onclick: act });
    bar.replaceChildren(...[
      Dom.html("span", { class: "count", text: words }),
      count > 0 && Dom.html("span", { class: "steps" },
        button("↑", "Previous match", () => this.step(-1)), button("↓", "Next match", () => this.step(1))),
      hidden && button("Open groups", "Open the groups that hide matches", () => this.openAll()),
      call && Dom.call(call),
      how === "none" && Dom.html("span", { class: "hint", text: "Try a name, conv*_relu, **/attn_*, name#1, a class such as Conv2D, or the first part of a block's name." }),
    ].filter(Boolean));
    Dom.say(words);
  }

  async openAll() {
    this.found.ids.forEach((id) => this.network.reveal(id));
    await this.picture.relayout(null);
    this.show();
  }

  step(by) {
    const boxes = [...this.lit().keys()];
    if (!boxes.length) return;
    this.turn = (this.turn + by + boxes.length) % boxes.length;
    if (this.turn < 0) this.turn = boxes.length - 1;
    this.picture.select(boxes[this.turn], true);
  }
}
