"""A scene as a static SVG: small, without scripts, for light and dark pages."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.display.layout import Placed, Point, layered
from keras_graft.display.picture import element
from keras_graft.display.view import View, remarks, summary, title_of
from keras_graft.tables import counted

_MARGIN = 16
_PADDING = 14
_TITLE = 22
"""The height of the title of an open group, where no line enters it from above."""
_LINE = 15
_LONG = 44
"""A label with more letters than this is cut short."""

_STYLE = """
text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#57606a;text-anchor:middle}
.t{font-size:12px;font-weight:600;fill:#1f2328}.h{font-size:14px;text-anchor:start}.s{text-anchor:start}
.o{paint-order:stroke;stroke:#f9fafa;stroke-width:4px}
.p{fill:#8250df}rect{fill:#fff;stroke:#afb8c1}.w{fill:#f2f8ff;stroke:#6ea8e0}.e{fill:#f6f8fa}
.g{fill:#8c959f0f;stroke:#afb8c1}.f{stroke-dasharray:3 2}.new{fill:#dafbe1;stroke:#2da44e}
.dropped{fill:#ffebe9;stroke:#cf222e;stroke-dasharray:5 3}.changed{fill:#fff8c5;stroke:#bf8700}
path{fill:none;stroke:#8c959f;stroke-width:1.3;marker-end:url(#a)}.n{marker-end:none}
.m{stroke-dasharray:4 3}marker path{fill:#8c959f;stroke:none;marker-end:none}
@media(prefers-color-scheme:dark){text{fill:#9198a1}.t{fill:#f0f6fc}.p{fill:#ab7df8}.o{stroke:#181d24}
rect{fill:#161b22;stroke:#57606a}.w{fill:#12233a;stroke:#3b77b8}.e{fill:#21262d}.g{fill:#8c959f14;stroke:#444c56}
.new{fill:#12361f;stroke:#2ea043}.dropped{fill:#3d1518;stroke:#f85149}.changed{fill:#3a2d06;stroke:#d29922}
path{stroke:#768390}marker path{fill:#768390}}
"""


def svg(scene: Mapping[str, Any], depth: int | None = None) -> str:
    """Return a network as an SVG image, which needs no script.

    Args:
        scene: The scene.
        depth: How many levels of groups are open; None: as many as leave the picture small.

    >>> import keras
    >>> from keras_graft.display.scene import scene
    >>> x = keras.Input((4,), name="x")
    >>> image = svg(scene(keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny")))
    >>> image.startswith("<svg"), "Dense, 10 parameters" in image
    (True, True)
    """
    view = View(scene, depth)
    drawing = _Drawing(view)
    whole = drawing.group(None)
    head = [scene["name"], summary(scene)]
    width = max(whole.width, *(_wide(line) for line in head)) + 2 * _MARGIN
    height = whole.height + 2 * _MARGIN + 44
    drawing.put(whole, ((width - whole.width) / 2, _MARGIN + 44))
    inside = [
        f"<style>{_STYLE.strip()}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
        _text(head[0], _MARGIN, _MARGIN + 12, "t h"),
        _text(head[1], _MARGIN, _MARGIN + 30, "s"),
        *drawing.groups, *drawing.lines, *drawing.titles, *drawing.boxes,
    ]  # fmt: skip
    return element(
        "svg", "\n".join(inside), xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}", width=round(width), height=round(height),
        role="img", aria_label=": ".join(head),
    )  # fmt: skip


@dataclass
class _Laid:
    """A group with its inside placed, or a box."""

    key: str | None
    width: float
    height: float
    top: float = 0
    placed: Placed | None = None
    inside: dict[str, _Laid] = field(default_factory=dict)
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)


class _Drawing:
    """Lays out each open group by itself, and then puts one into the other.

    Lines from outside enter a group at its upper side and leave at its lower one.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.groups: list[str] = []
        self.lines: list[str] = []
        self.titles: list[str] = []
        self.boxes: list[str] = []
        self._edges = self._by_level()

    def _by_level(self) -> dict[str | None, dict[tuple[str, str], str]]:
        """Return for each open group the edges in it; `">"` and `"<"` are its upper and lower side."""
        found: dict[str | None, dict[tuple[str, str], str]] = {}

        def add(group: str | None, source: str, target: str, kind: str) -> None:
            edges = found.setdefault(group, {})
            if edges.get((source, target)) != "data":
                edges[source, target] = kind

        for source, target, kind in self._view.edges():
            up, down = self._around(source), self._around(target)
            while up and down and up[-1] == down[-1]:
                up.pop()
                down.pop()
            common = self._view.items[(up or [source])[-1]]["parent"]
            for inner, outer in zip([source, *up], up, strict=False):
                add(outer, inner, "<", kind)
            add(common, (up or [source])[-1], (down or [target])[-1], kind)
            for inner, outer in zip([target, *down], down, strict=False):
                add(outer, ">", inner, kind)
        return found

    def _around(self, key: str) -> list[str]:
        """Return the groups around an item, the innermost first."""
        found = []
        parent = self._view.items[key]["parent"]
        while parent is not None:
            found.append(parent)
            parent = self._view.items[parent]["parent"]
        return found

    def group(self, key: str | None) -> _Laid:
        """Lay out what is inside an open group."""
        view = self._view
        inside = {
            child: self.group(child) if view.is_open(child) else self._box(child)
            for child in view.children.get(key, ())
        }
        edges = self._edges.get(key, {})
        sizes: dict[str, tuple[float, float]] = {}
        if any(source == ">" for source, _ in edges):
            sizes[">"] = 0, 0
        sizes.update((child, (laid.width, laid.height)) for child, laid in inside.items())
        last = "<" if any(target == "<" for _, target in edges) else ""
        if last:
            sizes["<"] = 0, 0
        placed = layered(sizes, list(edges), last)
        if key is None:
            return _Laid(key, placed.width, placed.height, 0, placed, inside, edges)
        width = max(placed.width, _wide(self._title(key))) + 2 * _PADDING
        top = 4 if ">" in sizes else _TITLE
        height = placed.height + top + (0 if last else _PADDING)
        return _Laid(key, width, height, top, placed, inside, edges)

    def _title(self, key: str) -> str:
        item = self._view.items[key]
        return _cut(", ".join([title_of(item), *remarks(item)]), 60)

    def _box(self, key: str) -> _Laid:
        lines = self._said(key)
        width = max(_wide(line) * (1.2 if i == 0 else 1) for i, line in enumerate(lines)) + 24
        stack = 6 if self._view.items[key]["times"] else 0
        return _Laid(key, max(width, 90) + stack, len(lines) * _LINE + 12 + stack)

    def _said(self, key: str) -> list[str]:
        item = self._view.items[key]
        kind = item["kind"]
        if item["type"] == "group":
            kind = counted(self._view.nodes_in(key), "node")
        if item["parameters"]:
            kind += f", {counted(item['parameters'], 'parameter')}"
        spec = item["spec"].replace(" float32", "")
        said = [title_of(item), *([] if item["type"] in ("input", "output") else [kind]), spec]
        return [_cut(line) for line in (*said, *remarks(item)) if line]

    def put(self, laid: _Laid, at: Point) -> None:
        """Draw a group and what is inside it, with its upper left corner at a point."""
        x, y = at
        placed = laid.placed
        if placed is None:
            self._draw(laid, x, y)
            return
        if laid.key is not None:
            item = self._view.items[laid.key]
            self.groups.append(
                _rect(x, y, laid.width, laid.height, f"g {item['change'] or ''}", 10)
            )
            self.titles.append(_text(self._title(laid.key), x + 10, y + 15, "s o"))
        left = x + (laid.width - placed.width) / 2
        top, middle = y + laid.top, x + laid.width / 2
        for (source, target), points in placed.lines.items():
            shifted = [(px + left, py + top) for px, py in points]
            if source == ">":
                shifted[0] = middle, y
            if target == "<":
                shifted[-1] = middle, y + laid.height
            mask = laid.kinds[source, target] == "mask"
            open_ = target == "<" or (target in laid.inside and laid.inside[target].placed)
            kinds = [name for name, on in (("m", mask), ("n", open_)) if on]
            self.lines.append(_path(shifted, " ".join(kinds)))
        for key, child in laid.inside.items():
            cx, cy = placed.boxes[key]
            self.put(child, (left + cx - child.width / 2, top + cy))

    def _draw(self, laid: _Laid, x: float, y: float) -> None:
        assert laid.key is not None
        item = self._view.items[laid.key]
        lines = self._said(laid.key)
        css = item["change"] if item["change"] in ("new", "dropped", "changed") else ""
        if not css:
            ends = item["type"] in ("input", "output")
            css = "e" if ends else "w" if item["parameters"] else ""
        css += " f" if item["state"] == "frozen" else ""
        stack = 6 if item["times"] else 0
        width, height = laid.width - stack, laid.height - stack
        radius = 14 if item["type"] in ("input", "output") else 6
        for shift in (6, 3) if stack else ():
            self.boxes.append(_rect(x + shift, y + shift, width, height, css, radius))
        self.boxes.append(_rect(x, y, width, height, css, radius))
        noted = len(remarks(item))
        for i, line in enumerate(lines):
            name = "t" if i == 0 else "p" if i >= len(lines) - noted else ""
            self.boxes.append(_text(line, x + width / 2, y + 17 + i * _LINE, name))


def _rect(x: float, y: float, width: float, height: float, css: str, radius: int) -> str:
    sizes = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
    return element("rect", class_=css.strip(), **{key: round(size) for key, size in sizes.items()})


def _path(points: Sequence[Point], css: str) -> str:
    """Return a line that leaves and enters vertically."""
    x, y = points[0]
    parts = [f"M{x:.0f} {y:.0f}"]
    for px, py in points[1:]:
        if abs(px - x) < 1:
            parts.append(f"V{py:.0f}")
        else:
            middle = (y + py) / 2
            parts.append(f"C{x:.0f} {middle:.0f} {px:.0f} {middle:.0f} {px:.0f} {py:.0f}")
        x, y = px, py
    return element("path", class_=css, d="".join(parts))


def _wide(line: str) -> float:
    """Return about how wide a line is: in most fonts a letter is half as wide as it is high."""
    return 6.3 * len(line)


def _cut(line: str, long: int = _LONG) -> str:
    return line if len(line) <= long else f"{line[: long - 3]}..."


def _text(line: str, x: float, y: float, css: str) -> str:
    return element("text", html.escape(line, quote=False), class_=css, x=round(x), y=round(y))
