"""`scene`: a network as plain data that every picture is drawn from.

The scene is one flat list of items and one of edges. Items lie in groups: nested models, repeated
blocks and blocks of one name. A picture closes and opens groups; it needs no graph for that.

    {"format": 1, "name": ..., "kind": "graph" | "diff", "totals": {...},
     "items": {"n12": {...}}, "edges": [[from, to, spec, "data" | "mask"]], "cuts": [{...}]}

Edges run between items that are not groups, through the borders of nested models. An edge whose
end lies in a closed group is drawn to the outermost closed group that contains it. The children of
a group of kind "repeat" are equal blocks; a block of one node is that node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keras_graft.display.borders import fill_borders
from keras_graft.display.compare import compared
from keras_graft.display.cut_rows import cut_rows
from keras_graft.display.fold import fold
from keras_graft.display.parts import Part, parts_of
from keras_graft.graph.graph import Graph
from keras_graft.look.diff import Diff
from keras_graft.model.read import read
from keras_graft.printable import printable


def scene(x: Any) -> dict[str, Any]:
    """Return a model, a graph or a diff as plain data, ready for JSON.

    Args:
        x: A Keras model, a `Graph`, or the report of `kg.diff`.

    Returns:
        The scene; the docstring of this module says what is in it.

    >>> import keras
    >>> x = keras.Input((4,), name="x")
    >>> drawn = scene(keras.Model(x, keras.layers.Dense(2, name="out")(x), name="tiny"))
    >>> list(drawn["items"])
    ['i0', 'n0', 'o0']
    >>> drawn["edges"]
    [['i0', 'n0', '(?, 4) float32', 'data'], ['n0', 'o0', '(?, 2) float32', 'data']]
    """
    if isinstance(x, Diff):
        changes = x.changes()
        found = drawn(changes.new, fold(compared(changes)), "diff")
        found["totals"]["change"] = x.costs.to_dict()["change"]
        return found
    graph = read(x)
    return drawn(graph, fold(parts_of(graph)), "graph")


def drawn(graph: Graph, parts: list[Part], kind: str) -> dict[str, Any]:
    """Return the scene of parts: their items with identifiers, the edges, totals and cuts."""
    listing = _Listing()
    listing.add(parts, None)
    fill_borders(list(listing.ids))
    leaves = [part for part in listing.ids if part.inside is None and part.item["type"] == "node"]
    whole = sum(p.item["cost"] or 0 for p in leaves if p.item["change"] != "dropped")
    items = {}
    for part, identifier in listing.ids.items():
        if part.item["cost"] is not None:
            part.item["share"] = part.item["cost"] / whole if whole else 0.0
        items[identifier] = part.item
    edges = dict.fromkeys(
        (listing.ids[source], listing.ids[part], str(spec or "?"), what)
        for part in listing.ids
        for (source, _, spec), what in part.reads
        if source in listing.ids
    )
    sizes: dict[int, int] = {}
    trained: set[int] = set()
    there = [part for part in leaves if part.item["change"] != "dropped"]
    for part in there:
        sizes.update(part.sizes)
        trained |= part.trained
    trainable = sum(sizes[key] for key in trained)
    total = sum(sizes.values())
    return {
        "format": 1,
        "name": printable(graph.name),
        "kind": kind,
        "totals": {
            "nodes": len(there),
            "operations": len({id(p.node.operation) for p in there if p.node}),
            "parameters": total,
            "trainable": trainable,
            "frozen": total - trainable,
        },
        "items": items,
        "edges": [list(edge) for edge in edges],
        "cuts": cut_rows(graph, listing.found),
    }


class _Listing:
    """Gives each part its identifier, and each group what it adds up to."""

    def __init__(self) -> None:
        self.ids: dict[Part, str] = {}
        self._counts = {"input": 0, "output": 0, "node": 0, "group": 0}
        self._by_key: dict[Any, str] = {}

    def add(self, parts: Iterable[Part], parent: str | None) -> None:
        """List parts and what is inside them, outer ones first."""
        for part in parts:
            type_ = part.item["type"]
            identifier = f"{type_[0]}{self._counts[type_]}"
            self._counts[type_] += 1
            self.ids[part] = identifier
            part.item["parent"] = parent
            if part.node is not None:
                self._by_key.setdefault(part.node.key, identifier)
            if part.inside is not None:
                self.add(part.inside, identifier)
                _add_up(part)

    @property
    def found(self) -> Callable[[Any], str | None]:
        """Return the identifier of a node, by its key."""
        return self._by_key.get


def _add_up(group: Part) -> None:
    """Fill in the parameters, the cost and the state of a group from what is inside it."""
    inside = group.inside or []
    group.sizes = {key: size for part in inside for key, size in part.sizes.items()}
    group.trained = frozenset(key for part in inside for key in part.trained)
    costs = [part.item["cost"] for part in inside if part.item["cost"] is not None]
    group.item["cost"] = sum(costs) if costs else None
    group.item["may_differ"] = any(part.item["may_differ"] for part in inside)
    if group.node is None:
        changes = {part.item["change"] for part in inside}
        group.item["change"] = changes.pop() if len(changes) == 1 else "changed"
        states = {part.item["state"] for part in inside} - {"none"}
        group.item["state"] = states.pop() if len(states) == 1 else "mixed" if states else "none"
        group.item["parameters"] = sum(group.sizes.values())
        group.item["trainable"] = sum(group.sizes[key] for key in group.trained)
