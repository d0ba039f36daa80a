"use strict";
/* Which part of the picture is seen, and how large: pan and zoom. */

const Camera = (() => {
  const LEAST = 0.02;
  const MOST = 3;
  const MARGIN = 24;
  let svg;
  let world;
  let size = { width: 1, height: 1 };
  let x = 0;
  let y = 0;
  let scale = 1;
  let moved = false;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");

  function apply() {
    world.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    // Far away, small texts are only noise.
    svg.classList.toggle("far", scale < 0.5);
    svg.classList.toggle("very-far", scale < 0.22);
  }

  const view = () => ({ width: svg.clientWidth || 800, height: svg.clientHeight || 600 });

  function zoom(factor, atX, atY) {
    const { width, height } = view();
    const px = atX ?? width / 2;
    const py = atY ?? height / 2;
    const next = Math.min(MOST, Math.max(LEAST, scale * factor));
    x = px - ((px - x) * next) / scale;
    y = py - ((py - y) * next) / scale;
    scale = next;
    apply();
  }

  function pan(dx, dy) {
    x += dx;
    y += dy;
    apply();
  }

  /** Show the whole picture. */
  function fit() {
    const { width, height } = view();
    scale = Math.min(1.2, (width - 2 * MARGIN) / size.width, (height - 2 * MARGIN) / size.height);
    scale = Math.max(LEAST, scale);
    x = (width - size.width * scale) / 2;
    y = Math.max(MARGIN, (height - size.height * scale) / 2);
    apply();
  }

  /** Show all of it where that can be read, otherwise the top at a size that can be read. */
  function begin(first) {
    fit();
    if (scale >= 0.7 || !first) return;
    const { width } = view();
    scale = Math.max(0.7, Math.min(0.9, (width - 2 * MARGIN) / size.width));
    x = width / 2 - (first.x + first.w / 2) * scale;
    y = MARGIN - first.y * scale;
    apply();
  }

  /** Move a box into view if it is not; `covered` is what lies over the picture, at the right or below. */
  function show(box, covered) {
    const { width, height } = free(covered);
    if (scale < 0.5) zoomTo(0.8);
    const left = x + box.x * scale;
    const top = y + box.y * scale;
    const w = box.w * scale;
    const h = Math.min(box.h * scale, height - 2 * MARGIN);
    const hidden = left < MARGIN || top < MARGIN || left + w > width - MARGIN || top + h > height - MARGIN;
    if (!hidden) return;
    glide(x + width / 2 - (left + w / 2), y + height / 2 - (top + h / 2));
  }

  function free(covered) {
    const { width, height } = view();
    const frame = svg.getBoundingClientRect();
    if (!covered || covered.right <= frame.left || covered.left >= frame.right) return { width, height };
    if (covered.left > frame.left + 60) return { width: covered.left - frame.left, height };
    return { width, height: Math.max(80, covered.top - frame.top) };
  }

  function zoomTo(next) {
    const { width, height } = view();
    zoom(next / scale, width / 2, height / 2);
  }

  function glide(toX, toY) {
    if (still.matches) {
      x = toX;
      y = toY;
      apply();
      return;
    }
    const [fromX, fromY, start] = [x, y, performance.now()];
    moved = false;
    const step = (now) => {
      if (moved) return;
      const part = Math.min(1, (now - start) / 180);
      const eased = 1 - (1 - part) ** 3;
      x = fromX + (toX - fromX) * eased;
      y = fromY + (toY - fromY) * eased;
      apply();
      if (part < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  const onScreen = (box) => ({ x: x + (box.x + box.w / 2) * scale, y: y + box.y * scale });

  /** Keep a box where it was on the screen although its place in the picture is another one. */
  function keep(before, box) {
    moved = true;
    x = before.x - (box.x + box.w / 2) * scale;
    y = before.y - box.y * scale;
    apply();
  }

  function start(element, inner) {
    svg = element;
    world = inner;
    let drag = null;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      moved = true;
      const frame = svg.getBoundingClientRect();
      const delta = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
      zoom(Math.exp(-Math.max(-150, Math.min(150, delta)) * 0.0022), event.clientX - frame.left, event.clientY - frame.top);
    }, { passive: false });
    // The click at the end of a drag selects nothing.
    svg.addEventListener("click", (event) => {
      if (svg.classList.contains("dragged")) event.stopPropagation();
    }, { capture: true });
    const fingers = new Map();
    svg.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      drag = { far: 0 };
      moved = true;
    });
    svg.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before || !drag) return;
      const now = [event.clientX, event.clientY];
      const others = [...fingers].filter(([id]) => id !== event.pointerId);
      fingers.set(event.pointerId, now);
      if (others.length) {
        const other = others[0][1];
        const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        const frame = svg.getBoundingClientRect();
        zoom(apart(now) / apart(before), (now[0] + other[0]) / 2 - frame.left, (now[1] + other[1]) / 2 - frame.top);
        drag.far = 99;
        return;
      }
      drag.far += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (drag.far > 4) {
        if (!svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
        svg.classList.add("dragged");
        pan(now[0] - before[0], now[1] - before[1]);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      svg.addEventListener(name, (event) => {
        fingers.delete(event.pointerId);
        setTimeout(() => svg.classList.remove("dragged"));
        drag = null;
      });
    }
  }

  return {
    start, zoom, pan, fit, begin, show, keep, onScreen,
    resize: (width, height) => (size = { width: Math.max(1, width), height: Math.max(1, height) }),
    scale: () => scale,
  };
})();
