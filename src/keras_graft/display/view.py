"""`View`: which groups of a scene are open, and what is drawn then. For the static pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.tables import counted

_MOST = 40
"""Levels are opened until a picture would have more boxes than this."""

Edge = tuple[str, str, str]
"""From, to, and `"data"` or `"mask"`."""


class View:
    """A scene opened to a depth.

    Args:
        scene: The scene.
        depth: How many levels of groups are open; None: as many as a small picture has room for.

    Attributes:
        items: The items of the scene, by their identifiers.
        children: For each group, and None for the whole, the identifiers of what is inside.
        depth: How many levels are open.
    """

    def __init__(self, scene: Mapping[str, Any], depth: int | None = None) -> None:
        self.scene = scene
        self.items: Mapping[str, dict[str, Any]] = scene["items"]
        self.children: dict[str | None, list[str]] = {None: []}
        self._levels: dict[str, int] = {}
        for key, item in self.items.items():
            parent = item["parent"]
            self.children.setdefault(parent, []).append(key)
            self._levels[key] = 0 if parent is None else self._levels[parent] + 1
        deepest = max(self._levels.values(), default=0)
        if depth is None:
            counts = [self._count(level) for level in range(deepest + 1)]
            depth = max((d for d, count in enumerate(counts) if count <= _MOST), default=0)
        self.depth = min(depth, deepest)

    def _count(self, depth: int) -> int:
        """Return how many boxes there are at a depth."""
        shown = (key for key, level in self._levels.items() if level <= depth)
        return sum(not self._open(key, depth) for key in shown)

    def _open(self, key: str, depth: int) -> bool:
        return self._levels[key] < depth and key in self.children

    def is_open(self, key: str) -> bool:
        """Whether this is a group whose children are drawn."""
        return self._open(key, self.depth)

    def level(self, key: str) -> int:
        """Return in how many groups an item lies."""
        return self._levels[key]

    def boxes(self) -> list[str]:
        """Return the items that are drawn as one box, in order: nodes, ends and closed groups."""
        return [
            k for k, level in self._levels.items() if level <= self.depth and not self.is_open(k)
        ]

    def edges(self) -> list[Edge]:
        """Return the edges between boxes, each once; none inside a closed group."""
        drawn: dict[str, str] = {}
        for key, item in self.items.items():
            parent: str | None = item["parent"]
            closed = parent is not None and not self.is_open(parent)
            drawn[key] = drawn[parent] if parent is not None and closed else key
        found: dict[tuple[str, str], str] = {}
        for source, target, _, kind in self.scene["edges"]:
            pair = drawn[source], drawn[target]
            if pair[0] != pair[1] and found.get(pair) != "data":
                found[pair] = kind
        return [(*pair, kind) for pair, kind in found.items()]

    def nodes_in(self, key: str) -> int:
        """Return how many nodes lie in a group, at any depth."""
        stack, count = [key], 0
        while stack:
            at = stack.pop()
            count += self.items[at]["type"] == "node"
            stack += self.children.get(at, ())
        return count


def title_of(item: Mapping[str, Any]) -> str:
    """Return the label of an item, with how often a block is repeated."""
    return f"{item['label']} x {item['times']}" if item["times"] else str(item["label"])


def summary(scene: Mapping[str, Any]) -> str:
    """Return the line under the title of a picture."""
    totals = scene["totals"]
    parts = [counted(totals["nodes"], "node"), counted(totals["parameters"], "parameter")]
    if totals["frozen"]:
        parts.append(f"{totals['frozen']:,} of them not trained")
    for name, told in (("multiply_adds", "multiply-adds"), ("activation_bytes", "bytes of values")):
        change = totals.get("change", {}).get(name)
        if change:
            parts.append(f"{change:+.1%} {told}")
    return ", ".join(parts)


def remarks(item: Mapping[str, Any]) -> list[str]:
    """Return what is special about an item: what happened to it, its state, sharing, ties."""
    found = []
    if item["change"] not in (None, "kept"):
        found.append(item["change"])
    elif item["may_differ"] and item["type"] == "output":
        found.append("may differ")
    if item["state"] in ("frozen", "mixed"):
        found.append("frozen" if item["state"] == "frozen" else "partly frozen")
    if item["shared"]:
        found.append(f"shared: {item['shared']}")
    if item["ties"]:
        found.append(f"tied: {', '.join(item['ties'])}")
    return found
