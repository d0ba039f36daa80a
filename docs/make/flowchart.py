"""Flow charts as SVG. GitHub draws `mermaid` blocks itself; the site must not fetch a library for it.

Only what the pages use is understood: `flowchart LR` or `TD`, `id[label]`, `-->`, `-->|label|` and
`-. "label" .-`. Anything else is an error.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

CHARACTER, HEIGHT, GAP = 7.3, 32, 18
NODE = re.compile(r"(\w+)\[\"?(.*?)\"?\]")
ARROW = re.compile(r"\s*(-->(?:\|\"?[^|\"]*\"?\|)?|-\.\s*\"[^\"]*\"\s*\.-)\s*")


@dataclass
class Chart:
    """Boxes by name, and arrows: from, to, label, whether it is dotted."""

    across: bool
    labels: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str, str, bool]] = field(default_factory=list)


def parsed(text: str) -> Chart:
    """Read a flow chart; raise ValueError for what is not understood."""
    first, *lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if first not in ("flowchart LR", "flowchart TD"):
        raise ValueError(f"a flow chart begins with 'flowchart LR' or 'TD', not {first!r}")
    chart = Chart(first.endswith("LR"))
    for line in lines:
        chart.labels.update(NODE.findall(line))
        parts = ARROW.split(NODE.sub(r"\1", line))
        if not all(re.fullmatch(r"\w+", name) for name in parts[::2]):
            raise ValueError(f"not understood: {line!r}")
        for source, arrow, target in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            label = arrow.strip("->|. ").strip('"')
            chart.edges.append((source, target, label, arrow.startswith("-.")))
    for name in {n for edge in chart.edges for n in edge[:2]}:
        chart.labels.setdefault(name, name)
    return chart


def svg(text: str, title: str = "") -> str:
    """Return a flow chart as an SVG that takes its colours from the page."""
    chart = parsed(text)
    solid = [edge for edge in chart.edges if not edge[3]]
    rank = _ranks(chart.labels, solid)
    rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for name in chart.labels:
        rows[rank[name]].append(name)
    chains = []  # an arrow over several rows passes between the boxes of each
    for number, (source, target, label, _) in enumerate(solid):
        chain = [source]
        for row in range(rank[source] + 1, rank[target]):
            chain.append(f"{number}:{row}")
            rows[row].append(chain[-1])
        chains.append(([*chain, target], label))
    _order(rows, chains)
    boxes, width, height = _places(chart, rows, chains)
    parts = [_arrow(chart, boxes, chain, label) for chain, label in chains]
    bottom = height
    for source, target, label, dotted in chart.edges:
        if dotted:
            parts.append(_arc(boxes[source], boxes[target], label))
            bottom = height + 46
    parts += [_box(chart.labels[name], boxes[name]) for name in chart.labels]
    name = html.escape(title or ", ".join(chart.labels.values()))
    style = (
        "<style>.fc{font:13px system-ui,sans-serif;color:inherit}"
        ".fc path{fill:none;stroke:currentColor;opacity:.65}.fc .tip{fill:currentColor;stroke:none}"
        ".fc rect{fill:#3b6ea822;stroke:#3b6ea8}.fc text{fill:currentColor;text-anchor:middle}</style>"
    )
    return (
        f'<svg class="fc" role="img" aria-label="{name}" width="{width:.0f}" '
        f'viewBox="-1 -1 {width + 2:.0f} {bottom + 2:.0f}">{style}{"".join(parts)}</svg>'
    )


def _ranks(names, edges) -> dict[str, int]:
    rank = dict.fromkeys(names, 0)
    for _ in names:  # the longest way from a start
        for source, target, *_ in edges:
            rank[target] = max(rank[target], rank[source] + 1)
    return rank


def _order(rows, chains) -> None:
    """Put what is connected above each other: each row by the mean place of what leads to it."""
    above: dict[str, list[str]] = {}
    for chain, _ in chains:
        for one, other in zip(chain, chain[1:], strict=False):
            above.setdefault(other, []).append(one)
    for before, row in zip(rows, rows[1:], strict=False):
        place = {name: i / max(1, len(before) - 1) for i, name in enumerate(before)}
        means = {n: sum(place[a] for a in above[n]) / len(above[n]) for n in row}
        row.sort(key=means.__getitem__)


def _places(chart, rows, chains):
    """Return the box of each name, as x, y, width, height, and the size of the whole."""

    def wide(name):
        return CHARACTER * len(chart.labels[name]) + 22 if name in chart.labels else 8

    boxes = {}
    if chart.across:
        x = 0.0
        for number, row in enumerate(rows):
            width = max(map(wide, row))
            for i, name in enumerate(row):
                boxes[name] = (x, i * (HEIGHT + GAP) + 16, wide(name), HEIGHT)
            labels = [label for chain, label in chains if chain[0] in row]
            last = number == len(rows) - 1
            x += width + (0 if last else max([30, *(CHARACTER * len(t) + 24 for t in labels)]))
        return boxes, x, max(y + h for _, y, _, h in boxes.values())
    whole = max(sum(map(wide, row)) + GAP * (len(row) - 1) for row in rows)
    for number, row in enumerate(rows):
        x = (whole - sum(map(wide, row)) - GAP * (len(row) - 1)) / 2
        for name in row:
            boxes[name] = (x, number * (HEIGHT + 22), wide(name), HEIGHT)
            x += wide(name) + GAP
    return boxes, whole, len(rows) * (HEIGHT + 22) - 22


def _arrow(chart, boxes, chain, label) -> str:
    points = []
    for i, name in enumerate(chain):
        x, y, w, h = boxes[name]
        ends = (
            [(x, y + h / 2), (x + w, y + h / 2)]
            if chart.across
            else [(x + w / 2, y), (x + w / 2, y + h)]
        )
        points += ends[1:] if i == 0 else ends[:1] if i == len(chain) - 1 else ends
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        mid = (x0 + x1) / 2, (y0 + y1) / 2
        a, b = ((mid[0], y0), (mid[0], y1)) if chart.across else ((x0, mid[1]), (x1, mid[1]))
        path += f"C{a[0]:.1f} {a[1]:.1f} {b[0]:.1f} {b[1]:.1f} {x1:.1f} {y1:.1f}"
    x, y = points[-1]
    tip = f"M{x} {y}l-7 -4v8z" if chart.across else f"M{x} {y}l-4 -7h8z"
    text = ""
    if label:
        (x0, y0), (x1, _) = points[0], points[1]
        text = f'<text x="{(x0 + x1) / 2:.1f}" y="{y0 - 7:.1f}">{html.escape(label)}</text>'
    return f'<path d="{path}"/><path class="tip" d="{tip}"/>{text}'


def _arc(one, other, label) -> str:
    x0, x1, y = one[0] + one[2] / 2, other[0] + other[2] / 2, one[1] + one[3]
    path = f'<path stroke-dasharray="4 4" d="M{x0:.1f} {y}V{y + 22}H{x1:.1f}V{y}"/>'
    return f'{path}<text x="{(x0 + x1) / 2:.1f}" y="{y + 38}">{html.escape(label)}</text>'


def _box(label: str, box) -> str:
    x, y, w, h = box
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{h}" rx="6"/>'
        f'<text x="{x + w / 2:.1f}" y="{y + h / 2 + 4.5}">{html.escape(label)}</text>'
    )
