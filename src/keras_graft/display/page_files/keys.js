"use strict";
/* The keyboard: arrows go along the lines, letters do what the buttons do. */

const Keys = (() => {
  /** The boxes at the other ends of the lines of a box. */
  function along(id, down) {
    return Draw.lines().filter((l) => (down ? l.from : l.to) === id).map((l) => (down ? l.to : l.from));
  }

  function next(picture, id, key) {
    const { network, places } = picture;
    const here = places[id];
    const middle = (box) => box.x + box.w / 2;
    if (key === "ArrowDown" || key === "ArrowUp") {
      const down = key === "ArrowDown";
      // Into an open group: to its first box; in general along a line, to the nearest end.
      if (down && network.isOpen(id)) return network.children.get(id)[0];
      const ends = along(id, down).map((end) => [Math.abs(places[end].y - here.y), Math.abs(middle(places[end]) - middle(here)), end]);
      ends.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
      if (ends.length) return ends[0][2];
      return down ? null : network.get(id).parent;
    }
    const right = key === "ArrowRight" ? 1 : -1;
    const beside = Object.entries(places).filter(([other, box]) =>
      other !== id && !network.isOpen(other) && (middle(box) - middle(here)) * right > 0 && box.y < here.y + here.h && box.y + box.h > here.y);
    beside.sort((a, b) => Math.abs(middle(a[1]) - middle(here)) - Math.abs(middle(b[1]) - middle(here)));
    return beside.length ? beside[0][0] : null;
  }

  function inPicture(picture, event) {
    const id = idOf(document.activeElement);
    if (!id) return false;
    const { network } = picture;
    const go = (to) => {
      if (to && Draw.element(to)) Draw.element(to).focus({ preventScroll: true });
      if (to && picture.places[to]) picture.bring(to);
    };
    if (event.key.startsWith("Arrow")) go(next(picture, id, event.key));
    else if (event.key === "Home") go(network.boxes()[0]);
    else if (event.key === "End") go(network.boxes().pop());
    else if (event.key === "Enter" && network.isGroup(id)) picture.toggle(id);
    else if (event.key === "Enter" && picture.chosen === id) picture.panel.querySelector("#panel-content button, #panel-content [tabindex]")?.focus();
    else if (event.key === "Enter" || event.key === " ") picture.select(id);
    else if (event.key === "Backspace") close(picture, id);
    else return false;
    return true;
  }

  /** Close the group around a box, and go to it. */
  async function close(picture, id) {
    const group = picture.network.isOpen(id) ? id : picture.network.get(id).parent;
    if (group === null) return;
    await picture.toggle(group);
    Draw.element(group)?.focus({ preventScroll: true });
    picture.bring(group);
  }

  function start(picture, actions) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = event.target.closest && event.target.closest("input, textarea, select");
      if (event.key === "Escape") {
        actions.escape();
        return;
      }
      if (typing || Dom.at("help").open) return;
      const done = inPicture(picture, event) || letter(event, actions);
      if (done) event.preventDefault();
    });
  }

  function letter(event, actions) {
    const found = { "/": "search", "+": "nearer", "=": "nearer", "-": "farther", 0: "fit", "?": "help", t: "table", o: "open", c: "close" }[event.key];
    if (!found) return false;
    actions[found]();
    return true;
  }

  return { start };
})();
