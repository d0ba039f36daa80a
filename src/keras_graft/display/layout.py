"""A layered layout: boxes in rows, each below what it reads, with room for the lines between.

This is the method of Sugiyama, Tagawa and Toda (1981), "Methods for visual understanding of
hierarchical system structures": rows by the longest path, points where a line passes a row, an order
in each row that keeps crossings few, and then the places. The places are the best ones for the order
(isotonic regression, by pooling neighbours that want to pass each other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_GAP = 18
"""Between two boxes of a row."""
_NARROW = 10
"""Between a line and what is beside it."""
_ROW = 26
"""Between two rows."""
_SWEEPS = 6

Point = tuple[float, float]
Mark = str | tuple[str, int]
"""A box by its key, or the point where the lines from a box pass a row."""


@dataclass
class Placed:
    """Where everything is; x is the middle, y the top.

    Attributes:
        width: The width of the whole.
        height: Its height.
        boxes: For each box, the middle of its upper side.
        lines: For each edge, the points it passes, from the source down to the target.
    """

    width: float = 0
    height: float = 0
    boxes: dict[str, Point] = field(default_factory=dict)
    lines: dict[tuple[str, str], list[Point]] = field(default_factory=dict)


def layered(
    sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]], last: str = ""
) -> Placed:
    """Place boxes in rows.

    Args:
        sizes: The width and height of each box, in an order in which they can run.
        edges: Pairs of boxes. Those against the order are left out.
        last: A box that is placed in a row of its own below all others.

    >>> placed = layered({"a": (40, 20), "b": (40, 20), "c": (40, 20)}, [("a", "b"), ("b", "c"), ("a", "c")])
    >>> [placed.boxes[key][1] for key in "abc"]
    [0.0, 46.0, 92.0]
    >>> len(placed.lines["a", "c"]) > len(placed.lines["a", "b"])
    True
    """
    order = {key: i for i, key in enumerate(sizes)}
    edges = [e for e in edges if order[e[0]] < order[e[1]]]
    rows, links = _rows(order, edges, last)
    _arrange(rows, links)
    width = {mark: sizes[mark][0] if isinstance(mark, str) else 0 for row in rows for mark in row}
    xs = _columns(rows, links, width)
    result = Placed()
    heights = [max((sizes[m][1] for m in row if isinstance(m, str)), default=0) for row in rows]
    tops = []
    y = 0.0
    for height in heights:
        tops.append(y)
        y += height + _ROW
    result.height = max(y - _ROW, 0)
    left = min((xs[m] - width[m] / 2 for m in xs), default=0)
    result.width = max((xs[m] + width[m] / 2 for m in xs), default=0) - left
    level = {mark: i for i, row in enumerate(rows) for mark in row}
    for mark, x in xs.items():
        xs[mark] = x - left
        if isinstance(mark, str):
            spare = heights[level[mark]] - sizes[mark][1]
            result.boxes[mark] = (xs[mark], tops[level[mark]] + spare / 2)
    for source, target in edges:
        points = [(xs[source], result.boxes[source][1] + sizes[source][1])]
        for row in range(level[source] + 1, level[target]):
            x = xs[source, row]
            points += [(x, tops[row]), (x, tops[row] + heights[row])]
        result.lines[source, target] = [*points, result.boxes[target]]
    return result


def _rows(
    order: Mapping[str, int], edges: Sequence[tuple[str, str]], last: str
) -> tuple[list[list[Mark]], list[tuple[Mark, Mark]]]:
    """Return the rows, with points for lines that pass them, and the links between neighbours."""
    level = dict.fromkeys(order, 0)
    readers: dict[str, list[str]] = {key: [] for key in order}
    read = {target for _, target in edges}
    for source, target in sorted(edges, key=lambda e: order[e[1]]):
        level[target] = max(level[target], level[source] + 1)
        readers[source].append(target)
    for key in order:  # what reads nothing is placed right before what reads it
        if key not in read and readers[key]:
            level[key] = min(level[target] for target in readers[key]) - 1
    if last:
        level[last] = max(level.values(), default=0) + (max(level.values()) == 0 and len(order) > 1)
        level[last] = max([level[last], *(level[k] + 1 for k in order if k != last)])
    rows: list[list[Mark]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for key in order:
        rows[level[key]].append(key)
    links: list[tuple[Mark, Mark]] = []
    for source, targets in readers.items():
        furthest = max((level[t] for t in targets), default=0)
        before: Mark = source
        at = level[source]
        # All lines from one box share the points that they pass.
        for row in range(level[source] + 1, furthest):
            rows[row].append((source, row))
            links.append((before, (source, row)))
            before = source, row
        for target in dict.fromkeys(targets):
            above: Mark = source if level[target] == at + 1 else (source, level[target] - 1)
            links.append((above, target))
    return rows, links


def _arrange(rows: list[list[Mark]], links: Sequence[tuple[Mark, Mark]]) -> None:
    """Sort each row so that lines cross little: by the mean place of the neighbours."""
    above, below = _neighbours(links)
    best, least = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if not least:
            break
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            place = {mark: i for other in rows for i, mark in enumerate(other)}
            middle = {
                mark: sum(place[n] for n in near[mark]) / len(near[mark])
                if near.get(mark)
                else place[mark]
                for mark in row
            }
            row.sort(key=lambda mark: middle[mark])
        now = _crossings(rows, below)
        if now < least:
            best, least = [list(row) for row in rows], now
    rows[:] = best


def _neighbours(
    links: Sequence[tuple[Mark, Mark]],
) -> tuple[dict[Mark, list[Mark]], dict[Mark, list[Mark]]]:
    above: dict[Mark, list[Mark]] = {}
    below: dict[Mark, list[Mark]] = {}
    for source, target in links:
        below.setdefault(source, []).append(target)
        above.setdefault(target, []).append(source)
    return above, below


def _crossings(rows: Sequence[Sequence[Mark]], below: Mapping[Mark, Sequence[Mark]]) -> int:
    count = 0
    for row, under in zip(rows, rows[1:], strict=False):
        place = {mark: i for i, mark in enumerate(under)}
        ends = [sorted(place[t] for t in below.get(mark, ())) for mark in row]
        seen: list[int] = []
        for found in ends:
            count += sum(1 for end in found for other in seen if other > end)
            seen += found
    return count


def _columns(
    rows: Sequence[Sequence[Mark]],
    links: Sequence[tuple[Mark, Mark]],
    width: Mapping[Mark, float],
) -> dict[Mark, float]:
    """Return the middle of each box and point: near the neighbours, in the order of its row."""
    above, below = _neighbours(links)
    xs: dict[Mark, float] = {}
    for row in rows:
        xs.update(_spread(row, [0.0] * len(row), [1.0] * len(row), width))
    for sweep in range(2 * _SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = [], []
            for mark in row:
                marks = near.get(mark, ())
                heavy = [_pull(n, mark) for n in marks]
                total = sum(heavy)
                wanted.append(
                    sum(xs[n] * h for n, h in zip(marks, heavy, strict=True)) / total
                    if total
                    else xs[mark]
                )
                weights.append(total or 0.1)
            xs.update(_spread(row, wanted, weights, width))
    return xs


def _pull(one: Mark, other: Mark) -> float:
    """Say how much two neighbours want to be in one column: a long line is kept straight."""
    lines = isinstance(one, tuple) + isinstance(other, tuple)
    return (4.0, 0.2, 8.0)[lines]


def _spread(
    row: Sequence[Mark],
    wanted: Sequence[float],
    weights: Sequence[float],
    width: Mapping[Mark, float],
) -> dict[Mark, float]:
    """Place a row as near to the wanted places as the widths allow."""
    shift, offsets = 0.0, []
    for i, mark in enumerate(row):
        if i:
            line = isinstance(mark, tuple) or isinstance(row[i - 1], tuple)
            shift += (width[row[i - 1]] + width[mark]) / 2 + (_NARROW if line else _GAP)
        offsets.append(shift)
    pools: list[list[float]] = []  # mean, weight, how many
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        pools.append([want - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, heavy, count = pools.pop()
            total = pools[-1][1] + heavy
            pools[-1][0] = (pools[-1][0] * pools[-1][1] + mean * heavy) / total
            pools[-1][1:] = [total, pools[-1][2] + count]
    means = [mean for mean, _, count in pools for _ in range(int(count))]
    return {mark: mean + o for mark, mean, o in zip(row, means, offsets, strict=True)}
