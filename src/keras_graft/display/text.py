"""A scene as text: an outline within 100 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.display.view import View, remarks, summary, title_of
from keras_graft.tables import counted

_WIDTH = 100
_HEAD = ("node", "kind", "output", "params", "")


def text(scene: Mapping[str, Any], depth: int | None = None) -> str:
    """Return an outline of a network: one line for each node, and for each group of them.

    Args:
        scene: The scene.
        depth: How many levels of groups are open; None: as many as leave it short. Of equal blocks
            the first is opened.

    >>> import keras
    >>> from keras_graft.display.scene import scene
    >>> x = y = keras.Input((4,), name="x")
    >>> for i in range(3):
    ...     y = keras.layers.Dense(4, name=f"dense_{i}")(y)
    >>> print(text(scene(keras.Model(x, y, name="tiny")), depth=0))
    tiny: 3 nodes, 60 parameters
    node       kind             output          params
    x          Input            (?, 4) float32
    dense x 3  repeat, 3 nodes  (?, 4) float32      60
    dense_2    Output           (?, 4) float32
    """
    view = View(scene, depth)
    rows: list[tuple[str, ...]] = [_HEAD]
    for key in view.children[None]:
        _add(view, key, rows)
    lines = [f"{scene['name']}: {summary(scene)}", *_aligned(rows)]
    if scene["kind"] == "diff":
        lines.append("new: only in the new network; dropped: only in the old one.")
    return "\n".join(_clipped(line, _WIDTH).rstrip() for line in lines)


def _add(view: View, key: str, rows: list[tuple[str, ...]]) -> None:
    item = view.items[key]
    indent = "  " * view.level(key)
    kind = item["kind"]
    if item["type"] == "group" and not view.is_open(key):
        kind += f", {counted(view.nodes_in(key), 'node')}"
    params = f"{item['parameters']:,}" if item["parameters"] else ""
    rows.append((indent + title_of(item), kind, item["spec"], params, "; ".join(remarks(item))))
    if not view.is_open(key):
        return
    children = view.children[key]
    for child in children[:1] if item["times"] else children:
        _add(view, child, rows)
    if item["times"]:
        last = view.items[children[-1]]["label"]
        more = counted(len(children) - 1, "more equal block")
        rows.append((f"{indent}  ... {more}, the last: {last}", "", "", "", ""))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows in columns; where they are too wide, names, kinds and outputs are cut short."""
    most = (56, 24, 30, 14)
    widths = [
        min(max(len(row[i]) for row in rows if row[1]), limit) for i, limit in enumerate(most)
    ]
    room = _WIDTH - sum(widths) - 2 * len(widths)
    noted = max(len(row[4]) for row in rows)
    for i, least in ((1, 18), (2, 24), (0, 32), (1, 12), (2, 16)):
        short = min(noted, 24) - room
        if short > 0:
            cut = min(short, max(widths[i] - least, 0))
            widths[i] -= cut
            room += cut
    lines = []
    for row in rows:
        if not row[1] and row is not rows[0]:
            lines.append(row[0])
            continue
        cells = [_clipped(cell, width) for cell, width in zip(row, widths, strict=False)]
        cells = [
            cell.rjust(width) if i == 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join([*cells, row[4]]))
    return lines


def _clipped(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 3]}..."
