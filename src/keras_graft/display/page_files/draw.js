"use strict";
/* The picture: boxes and lines as SVG. */

const Draw = (() => {
  const HIGH = 46;
  const LEAST = 96;
  const SHEET = 4;
  const ruler = document.createElement("canvas").getContext("2d");
  const widths = new Map();
  let elements = new Map();
  let lineElements = [];
  let layers;

  function width(text, font) {
    const key = font + text;
    if (!widths.has(key)) {
      ruler.font = font;
      widths.set(key, ruler.measureText(text).width);
    }
    return widths.get(key);
  }

  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
  const first = (item) => Dom.middle(item.label || item.kind, 34);

  /** A closed group looks like sheets that lie on each other. */
  const sheets = (item) => (item.times ? 2 : 1);

  function second(network, item) {
    if (item.type === "group") {
      const count = network.inside(item.id).length;
      const what = item.times ? `${item.times} equal blocks` : Dom.plural(count, "layer");
      return item.parameters ? `${what} · ${Dom.short(item.parameters)} params` : what;
    }
    const spec = (item.spec || "").replace(/ (float|bfloat|int|uint|bool)\w*/g, "");
    return Dom.middle(item.type === "node" ? `${item.kind} ${spec}` : spec, 40);
  }

  function textsOf(network, item) {
    if (!item.texts) item.texts = [first(item), second(network, item)];
    return item.texts;
  }

  /** The width and height of a box as it is drawn now. */
  function size(network, id) {
    const item = network.get(id);
    const texts = textsOf(network, item);
    const wide = Math.max(width(texts[0], `600 13px ${FONT}`), width(texts[1], `11px ${FONT}`));
    const group = item.type === "group";
    const beside = item.times ? 88 : group ? 62 : item.state && item.state !== "none" ? 44 : 32;
    return { w: Math.max(LEAST, Math.ceil(wide) + beside), h: HIGH + (group ? SHEET * sheets(item) : 0) };
  }

  function start(svg) {
    layers = {};
    const world = Dom.svg("g", { id: "world" });
    for (const name of ["groups", "stages", "lines", "boxes", "marks"]) {
      layers[name] = world.appendChild(Dom.svg("g", { class: name, "aria-hidden": ["lines", "stages", "marks"].includes(name) ? "true" : null }));
    }
    svg.append(world);
    return world;
  }

  function draw(network, lines, layout) {
    elements = new Map();
    const groups = [];
    const titles = [];
    const boxes = [];
    for (const id of network.boxes()) {
      const place = layout.places[id];
      const item = network.get(id);
      const open = network.isOpen(id);
      const element = open ? container(network, item, place) : box(network, item, place);
      elements.set(id, element);
      (open ? groups : boxes).push(element);
      // Above the lines, which would cross it out.
      if (open) titles.push(title(network, item, place));
    }
    lineElements = lines.map(([from, to, spec, kind], i) => {
      const element = Dom.svg("path", { d: curve(layout.paths[i]), class: `line ${kind}`, "marker-end": "url(#arrow)" });
      const change = [from, to].map((id) => network.get(id).change);
      if (change.includes("dropped")) element.classList.add("dropped");
      else if (change.includes("new")) element.classList.add("new");
      return { element, from, to, spec };
    });
    layers.groups.replaceChildren(...groups);
    layers.lines.replaceChildren(...lineElements.map((l) => l.element));
    layers.boxes.replaceChildren(...titles, ...boxes);
    layers.marks.replaceChildren();
  }

  /** A smooth curve through the middles between points. */
  function curve(points) {
    const p = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
    const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    if (points.length < 3) return `M${points.map(p).join("L")}`;
    let text = `M${p(points[0])}L${p(middle(points[0], points[1]))}`;
    for (let i = 1; i < points.length - 1; i++) text += `Q${p(points[i])} ${p(middle(points[i], points[i + 1]))}`;
    return `${text}L${p(points[points.length - 1])}`;
  }

  function base(network, item, place, name) {
    const [family] = Kinds.family(item);
    const element = Dom.svg("g", {
      class: `box ${name} family-${family} state-${item.state} ${item.change ? `change-${item.change}` : ""}`,
      transform: `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`,
      "data-id": item.id, tabindex: "0", role: "button",
      "aria-label": Describe.line(network, item),
      "aria-expanded": item.type === "group" ? String(network.isOpen(item.id)) : null,
    });
    return element;
  }

  function box(network, item, { x, y, w, h }) {
    const group = item.type === "group";
    const element = base(network, item, { x, y }, group ? "closed" : item.type);
    const round = item.type === "node" || group ? 6 : h / 2;
    const texts = textsOf(network, item);
    const under = group ? SHEET * sheets(item) : 0;
    const [wide, high] = [w - under, h - under];
    for (let at = under; at > 0; at -= SHEET) element.append(Dom.svg("rect", { class: "sheet", x: at, y: at, width: wide, height: high, rx: round }));
    element.append(Dom.svg("rect", { class: "face", width: wide, height: high, rx: round }));
    if (item.type === "node") element.append(Dom.svg("path", { class: "strip", d: `M6 0H5A5 5 0 0 0 0 6V${high - 6}A5 5 0 0 0 5 ${high}H6Z` }));
    if (group) element.append(handle(`M12 ${high / 2 - 4}l5 4l-5 4`, 26, high));
    const left = group ? 26 : item.type === "node" ? 15 : w / 2;
    element.append(
      Dom.svg("text", { class: "label", x: left, y: high / 2 - 4, text: texts[0] }),
      Dom.svg("text", { class: "more", x: left, y: high / 2 + 12, text: texts[1] }),
    );
    if (item.times) element.append(pill(wide - 10, high / 2 - 8, `× ${item.times}`, "times"));
    else element.append(...state(item, wide - 13, high / 2));
    element.append(...pills(network, item, wide), ...sign(network, item));
    return element;
  }

  function container(network, item, { x, y, w, h }) {
    const element = base(network, item, { x, y }, "open");
    element.append(
      Dom.svg("rect", { class: "face", width: w, height: h, rx: 8 }),
      Dom.svg("rect", { class: "head", width: w, height: Layout.HEAD, rx: 8 }),
      handle("M12 14l4 5l4 -5", 28, Layout.HEAD),
    );
    return element;
  }

  /** What one click opens or closes a group at: an arrow, and the room around it. */
  const handle = (d, width, height) => Dom.svg("g", { class: "sign" }, Dom.svg("rect", { width, height }), Dom.svg("path", { d }));

  function title(network, item, { x, y, w }) {
    const copies = item.times ? ` · ${item.times} equal blocks` : "";
    const kind = { block: "", repeat: "" }[item.kind] ?? ` · ${item.kind}`;
    const text = Dom.middle(first(item) + kind + copies, Math.max(12, Math.floor((w - 40) / 8.4)));
    return Dom.svg("g", { class: "box title", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "aria-hidden": "true" },
      Dom.svg("text", { class: "label", x: 28, y: 21, text }), ...pills(network, item, w), ...sign(network, item));
  }

  /** Trainable: a full dot; frozen: a star; partly: a half dot. */
  function state(item, x, y) {
    if (!item.state || item.state === "none") return [];
    const title = Dom.svg("title", { text: Kinds.STATES[item.state] });
    const shapes = {
      trainable: [Dom.svg("circle", { cx: x, cy: y, r: 4 })],
      mixed: [Dom.svg("circle", { class: "hollow", cx: x, cy: y, r: 4 }), Dom.svg("path", { d: `M${x} ${y - 4}a4 4 0 0 0 0 8Z` })],
      frozen: [Dom.svg("path", { class: "flake", d: `M${x} ${y - 5}v10M${x - 4.3} ${y - 2.5}l8.6 5M${x - 4.3} ${y + 2.5}l8.6 -5` })],
    };
    return [Dom.svg("g", { class: `state ${item.state}` }, title, ...(shapes[item.state] || []))];
  }

  function pill(right, y, text, name) {
    const wide = width(text, `600 10px ${FONT}`) + 12;
    return Dom.svg("g", { class: `pill ${name}`, transform: `translate(${right - wide} ${y})`, "data-wide": Math.ceil(wide) },
      Dom.svg("rect", { width: wide, height: 16, rx: 8 }),
      Dom.svg("text", { x: wide / 2, y: 11.5, text }));
  }

  /** Words on the upper edge. */
  function pills(network, item, wide) {
    const words = [];
    if (item.shared) words.push(["shared", "shared"]);
    if (item.ties && item.ties.length) words.push(["tied", "tied"]);
    if (item.may_differ && item.type === "output") words.push(["may differ", "differs"]);
    let right = wide - 8;
    return words.map(([text, name]) => {
      const element = pill(right, -8, text, name);
      right -= Number(element.dataset.wide) + 4;
      return element;
    });
  }

  /** The change of a diff, as a sign on the corner; of a group, how many there are inside. */
  function sign(network, item) {
    if (network.scene.kind !== "diff") return [];
    const counts = network.changes(item.id);
    const words = item.type === "group"
      ? Object.entries(counts).filter(([, n]) => n).map(([change, n]) => [`${Kinds.CHANGES[change][0]}${n}`, change])
      : item.change && item.change !== "kept" ? [[Kinds.CHANGES[item.change][0], item.change]] : [];
    let left = -6;
    return words.map(([text, change]) => {
      const wide = Math.max(18, 8 + 7 * text.length);
      left += wide + 3;
      return Dom.svg("g", { class: `corner ${change}`, transform: `translate(${left - wide - 3} -9)` },
        Dom.svg("rect", { width: wide, height: 18, rx: 9 }), Dom.svg("text", { x: wide / 2, y: 13.5, text }));
    });
  }

  return { start, draw, size, element: (id) => elements.get(id), elements: () => elements, lines: () => lineElements, layer: (name) => layers[name] };
})();
