"use strict";
/* Where every box lies. Each group is laid out by itself with dagre; then it is one box in the group
   around it. So opening one group costs as much as its own boxes. This file also runs in a worker. */

const Layout = (() => {
  const PAD = 16;
  const HEAD = 34;
  const LARGE = 250;
  const known = new Map();

  /** Lay out one level: sizes [[w, h]], edges [[i, j]], ins [[port, i]], outs [[i, port]]. */
  function level(sizes, edges, ins, outs, inCount, outCount) {
    const key = JSON.stringify([sizes, edges, ins, outs, inCount, outCount]);
    if (!known.has(key)) known.set(key, place(sizes, edges, ins, outs, inCount, outCount));
    return known.get(key);
  }

  function place(sizes, edges, ins, outs, inCount, outCount) {
    if (!sizes.length) return { boxes: [], points: new Map(), inX: [], outX: [], width: 0, height: 0 };
    const graph = new dagre.graphlib.Graph();
    const ranker = sizes.length > LARGE ? "tight-tree" : "network-simplex";
    graph.setGraph({ ranker, nodesep: 26, ranksep: 30, edgesep: 14 });
    sizes.forEach(([width, height], i) => graph.setNode(`n${i}`, { width, height }));
    // Ports are where edges enter and leave a group. A root holds them at the top, a sink at the bottom.
    const port = (name, count, end) => {
      if (count) graph.setNode(end, { width: 0, height: 0 });
      for (let i = 0; i < count; i++) {
        graph.setNode(`${name}${i}`, { width: 1, height: 0 });
        if (end === "root") graph.setEdge(end, `${name}${i}`, { weight: 60 });
        else graph.setEdge(`${name}${i}`, end, { weight: 60 });
      }
    };
    port("in", inCount, "root");
    port("out", outCount, "sink");
    edges.forEach(([a, b]) => graph.setEdge(`n${a}`, `n${b}`, { weight: 2 }));
    ins.forEach(([p, i]) => graph.setEdge(`in${p}`, `n${i}`, { weight: 1 }));
    outs.forEach(([i, p]) => graph.setEdge(`n${i}`, `out${p}`, { weight: 1 }));
    dagre.layout(graph);
    return measured(graph, sizes, edges, ins, outs, inCount, outCount);
  }

  /** Read positions from dagre's graph, moved so that the content starts at 0, 0. */
  function measured(graph, sizes, edges, ins, outs, inCount, outCount) {
    const turn = turned(graph, sizes.length) ? -1 : 1;
    const mirror = (p) => ((p.x *= turn), p);
    graph.nodes().forEach((name) => mirror(graph.node(name)));
    graph.edges().forEach((edge) => graph.edge(edge).points.forEach(mirror));
    const boxes = sizes.map(([w, h], i) => {
      const { x, y } = graph.node(`n${i}`);
      return { x: x - w / 2, y: y - h / 2, w, h };
    });
    const lines = [
      ...edges.map(([a, b]) => [`${a}>${b}`, graph.edge(`n${a}`, `n${b}`).points]),
      ...ins.map(([p, i]) => [`in${p}>${i}`, graph.edge(`in${p}`, `n${i}`).points]),
      ...outs.map(([i, p]) => [`${i}>out${p}`, graph.edge(`n${i}`, `out${p}`).points]),
    ];
    const ports = [];
    for (let i = 0; i < inCount; i++) ports.push(graph.node(`in${i}`));
    for (let i = 0; i < outCount; i++) ports.push(graph.node(`out${i}`));
    const xs = [...boxes.flatMap((b) => [b.x, b.x + b.w]), ...lines.flatMap(([, l]) => l.map((p) => p.x)), ...ports.map((p) => p.x)];
    const ys = [...boxes.flatMap((b) => [b.y, b.y + b.h]), ...ports.map((p) => p.y)];
    const left = least(xs);
    const top = least(ys);
    const width = -least(xs.map((x) => -x)) - left;
    const height = -least(ys.map((y) => -y)) - top;
    boxes.forEach((b) => ((b.x -= left), (b.y -= top)));
    const points = new Map(lines.map(([k, l]) => [k, l.map((p) => [p.x - left, clamp(p.y - top, 0, height)])]));
    const inX = ports.slice(0, inCount).map((p) => p.x - left);
    const outX = ports.slice(inCount).map((p) => p.x - left);
    return { boxes, points, inX, outX, width, height };
  }

  /** Whether most neighbours stand in the other order than they come in the graph. */
  function turned(graph, count) {
    const last = new Map();
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const { x, y } = graph.node(`n${i}`);
      const before = last.get(Math.round(y));
      if (before !== undefined) sum += Math.sign(x - before);
      last.set(Math.round(y), x);
    }
    return sum < 0;
  }

  const least = (numbers) => numbers.reduce((a, b) => Math.min(a, b), Infinity);
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  /**
   * Lay out everything.
   * @param {{boxes: [{id, parent, w, h, open}], lines: [[from, to]]}} seen boxes, outer before inner.
   * @returns {{places: Object<string, {x, y, w, h}>, paths: [[x, y]][], width, height}}
   */
  function layout(seen) {
    const box = new Map(seen.boxes.map((b) => [b.id, b]));
    const levels = new Map([[null, newLevel()]]);
    for (const b of seen.boxes) {
      if (b.open) levels.set(b.id, newLevel());
      const inside = levels.get(b.parent);
      inside.index.set(b.id, inside.ids.length);
      inside.ids.push(b.id);
    }
    const around = (id) => {
      const chain = [id];
      while (box.get(chain[chain.length - 1]).parent !== null) chain.push(box.get(chain[chain.length - 1]).parent);
      return chain;
    };
    const routes = seen.lines.map(([from, to]) => route(levels, from, to, around(from), around(to)));
    // Inner groups first: a group's size is known when the group around it is laid out.
    for (const b of [...seen.boxes].reverse()) if (b.open) size(b, levels.get(b.id), box);
    const outer = levels.get(null);
    solve(outer, box);
    const places = {};
    set(null, 0, 0, levels, box, places);
    const paths = routes.map((steps, i) => upright(joined(steps, levels, places), places[seen.lines[i][0]], places[seen.lines[i][1]]));
    return { places, paths, width: outer.done.width, height: outer.done.height };
  }

  const newLevel = () => ({ ids: [], index: new Map(), edges: new Map(), ins: new Map(), outs: new Map(), inPorts: new Map(), outPorts: new Map(), arrivals: [], done: null });

  /** The steps of one edge through the levels: out of the groups around `from`, into those around `to`. */
  function route(levels, from, to, up, down) {
    const common = up.find((id) => down.includes(id)) ?? null;
    // An edge from or to an open group itself does not exist: edges join nodes and closed groups.
    const a = up.slice(0, common === null ? up.length : up.indexOf(common));
    const b = down.slice(0, common === null ? down.length : down.indexOf(common));
    const steps = [];
    for (let i = 0; i + 1 < a.length; i++) {
      const here = levels.get(a[i + 1]);
      const p = numbered(here.outPorts, from);
      const key = `${here.index.get(a[i])}>out${p}`;
      here.outs.set(key, [here.index.get(a[i]), p]);
      steps.push({ group: a[i + 1], key, out: p });
    }
    const here = levels.get(common);
    const i = here.index.get(a[a.length - 1]);
    const j = here.index.get(b[b.length - 1]);
    here.edges.set(`${i}>${j}`, [i, j]);
    steps.push({ group: common, key: `${i}>${j}` });
    for (let k = b.length - 1; k > 0; k--) {
      const inner = levels.get(b[k]);
      const p = numbered(inner.inPorts, from);
      const key = `in${p}>${inner.index.get(b[k - 1])}`;
      inner.ins.set(key, [p, inner.index.get(b[k - 1])]);
      inner.arrivals[p] = steps[steps.length - 1].key;
      steps.push({ group: b[k], key, into: p });
    }
    return steps;
  }

  function numbered(ports, name) {
    if (!ports.has(name)) ports.set(name, ports.size);
    return ports.get(name);
  }

  function solve(inside, box) {
    const sizes = inside.ids.map((id) => [Math.ceil(box.get(id).w), Math.ceil(box.get(id).h)]);
    inside.done = level(sizes, [...inside.edges.values()], [...inside.ins.values()], [...inside.outs.values()], inside.inPorts.size, inside.outPorts.size);
  }

  function size(b, inside, box) {
    solve(inside, box);
    // Where edges enter or leave, the ports already keep a distance.
    inside.top = HEAD + (inside.inPorts.size ? 0 : PAD);
    inside.shift = Math.max(0, (b.w - inside.done.width - 2 * PAD) / 2);
    b.w = Math.max(b.w, inside.done.width + 2 * PAD);
    b.h = inside.top + inside.done.height + (inside.outPorts.size ? 0 : PAD);
  }

  /** Positions on the whole page, from those within each level. */
  function set(id, x, y, levels, box, places) {
    const inside = levels.get(id);
    inside.x = x;
    inside.y = y;
    inside.ids.forEach((child, i) => {
      const { x: dx, y: dy, w, h } = inside.done.boxes[i];
      places[child] = { x: x + dx, y: y + dy, w, h };
      if (levels.has(child)) {
        const within = levels.get(child);
        if (crossed(inside.done, within)) within.done = mirrored(within.done);
        set(child, x + dx + PAD + within.shift, y + dy + within.top, levels, box, places);
      }
    });
  }

  /** Whether lines come to a group in the other order than they go on inside. */
  function crossed(outside, { arrivals, done }) {
    const from = arrivals.map((key) => outside.points.get(key)[0][0]);
    let sum = 0;
    for (let i = 1; i < from.length; i++) sum += Math.sign((from[i] - from[i - 1]) * (done.inX[i] - done.inX[i - 1]));
    return sum < 0;
  }

  function mirrored({ boxes, points, inX, outX, width, height }) {
    return {
      boxes: boxes.map((b) => ({ ...b, x: width - b.x - b.w })),
      points: new Map([...points].map(([key, line]) => [key, line.map(([x, y]) => [width - x, y])])),
      inX: inX.map((x) => width - x), outX: outX.map((x) => width - x), width, height,
    };
  }

  function joined(steps, levels, places) {
    const points = [];
    steps.forEach((step, n) => {
      const inside = levels.get(step.group);
      const part = inside.done.points.get(step.key).map(([x, y]) => [x + inside.x, y + inside.y]);
      if (step.into !== undefined) part.splice(0, 1, [inside.x + inside.done.inX[step.into], places[step.group].y]);
      if (step.out !== undefined) {
        const { y, h } = places[step.group];
        part.splice(part.length - 1, 1, [inside.x + inside.done.outX[step.out], y + h]);
      }
      const before = steps[n - 1];
      const after = steps[n + 1];
      if (before && before.out !== undefined) part.shift();
      if (after && after.into !== undefined) part.pop();
      points.push(...part);
    });
    return points;
  }

  /** Let a line leave at the bottom of a box, and arrive at the top of another. */
  function upright(points, from, to) {
    const inner = points.slice(1, -1).filter(([, y]) => y > from.y + from.h + 1 && y < to.y - 1);
    const out = [beside(points[0][0], from), from.y + from.h];
    const into = [beside(points[points.length - 1][0], to), to.y];
    if (into[1] <= out[1]) return points; // backwards: only in a diff
    const bend = Math.min(10, (into[1] - out[1]) / 3);
    return [out, [out[0], out[1] + bend], ...inner, [into[0], into[1] - bend - 4], into];
  }

  const beside = (x, { x: left, w }) => clamp(x, left + Math.min(16, w / 2), left + w - Math.min(16, w / 2));

  return { layout, HEAD };
})();
