"""Who gives, reads and is called what in a graph: kept at hand, and carried over a small edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_graft.graph.names import Names
from keras_graft.graph.node import Node, Value
from keras_graft.graph.overlay import Overlay

Position = tuple[int, ...]
"""Where a node stands in the order of its graph: to be compared, not counted. The nodes that take
the place of one stand at its position, with one number more."""

Change = tuple[Position, Node | None, Sequence[Node]]
"""A position, the node that leaves it, if there is one, and those that come there."""

_DEEP = 8
"""Positions are given anew when one would get longer than this."""


class Index:
    """Look-up tables of one graph. Built in one pass, or derived from those before an edit.

    Nodes and values are looked up by their keys.

    Attributes:
        places: Each node with its position, and the node as it is here.
        made: Each value with the node that gives it (None for an input) and the value as it is
            here.
        used: Each value with the nodes that read it; in no particular order after an edit.
        carried: Each mask with the nodes that give it along with what they give, and do not read
            it: an `Embedding` does not read the mask that comes with its output.
        read_from: The values that were read from a tensor, by its identity; as above.
        calls: The calls of each operation, by its identity; as above.
        names: The name of each operation, by its identity.
        named: The operation of each name.
        taken: The names.
        tied: Each node that works with a weight of another layer.
    """

    __slots__ = (
        "calls", "carried", "made", "named", "names", "places", "read_from", "taken", "tied", "used",
    )  # fmt: skip

    def __init__(self, inputs: Sequence[Value], steps: Sequence[Node]) -> None:
        self.places: Overlay[Any, tuple[Position, Node]] = _places(steps)
        self.made: Overlay[Any, tuple[Node | None, Value]] = Overlay()
        self.used: Overlay[Any, tuple[Node, ...]] = Overlay()
        self.carried: Overlay[Any, tuple[Node, ...]] = Overlay()
        self.read_from: Overlay[int, tuple[Value, ...]] = Overlay()
        self.calls: Overlay[int, tuple[Node, ...]] = Overlay()
        self.names: Overlay[int, str] = Overlay()
        self.named: Overlay[str, Any] = Overlay()
        self.taken = Names()
        self.tied: Overlay[Any, Node] = Overlay()
        for value in inputs:
            self._make(value, None)
        for node in steps:
            self._add(node)

    def after(self, changes: Sequence[Change], steps: Sequence[Node]) -> Index:
        """Return the tables once `changes` are made, and `steps` are the nodes in order.

        Operations that stay keep their names, so that an edit here renames nothing there.
        """
        new = object.__new__(Index)
        for table in Index.__slots__:
            setattr(new, table, getattr(self, table).copy())
        staying = {id(node.operation) for _, _, added in changes for node in added}
        for _, old, added in changes:
            if old is not None and not any(node is old for node in added):
                new._drop(old, staying)
        deepest = 0
        for position, old, added in changes:
            for number, node in enumerate(added):
                place = position if len(added) == 1 else (*position, number)
                deepest = max(deepest, len(place))
                new.places[node.key] = place, node
                if node is not old:
                    new._add(node)
        if deepest > _DEEP:
            new.places = _places(steps)
        return new

    def _make(self, value: Value, node: Node | None) -> None:
        if value.key in self.made:
            return  # an input that a node also produces stays an input: that is what cutting means
        self.made[value.key] = node, value
        if value.origin is not None:
            _append(self.read_from, id(value.origin), value)

    def _add(self, node: Node) -> None:
        for value in node.gives:
            self._make(value, node)
        reads = node.reads
        for value in reads if len(reads) == 1 else dict.fromkeys(reads):
            _append(self.used, value.key, node)
        for mask in carries(node):
            _append(self.carried, mask.key, node)
        operation: Any = node.operation
        key = id(operation)
        _append(self.calls, key, node)
        if works_with_another(node):
            self.tied[node.key] = node
        if key not in self.names:
            self.names[key] = name = self.taken.take(str(operation.name))
            self.named[name] = operation

    def _drop(self, node: Node, staying: set[int]) -> None:
        del self.places[node.key]
        for value in node.gives:
            giver, known = self.made[value.key]
            if giver is not None and giver.key is node.key:
                del self.made[value.key]
                if known.origin is not None:
                    _remove(self.read_from, id(known.origin), known)
        reads = node.reads
        for value in reads if len(reads) == 1 else dict.fromkeys(reads):
            _remove(self.used, value.key, node)
        for mask in carries(node):
            _remove(self.carried, mask.key, node)
        key = id(node.operation)
        _remove(self.calls, key, node)
        if works_with_another(node):
            del self.tied[node.key]
        if key not in self.calls and key not in staying:
            name = self.names[key]
            self.taken.free(name)
            del self.names[key], self.named[name]


def _places(steps: Iterable[Node]) -> Overlay[Any, tuple[Position, Node]]:
    return Overlay({node.key: ((number,), node) for number, node in enumerate(steps)})


def _append(table: Overlay[Any, tuple[Any, ...]], key: Any, item: Node | Value) -> None:
    table[key] = (*table.get(key, ()), item)


def _remove(table: Overlay[Any, tuple[Any, ...]], key: Any, item: Node | Value) -> None:
    left = tuple(other for other in table[key] if other.key is not item.key)
    if left:
        table[key] = left
    else:
        del table[key]


def carries(node: Node) -> list[Value]:
    """Return the masks that a node hands along with its outputs and does not read."""
    masks = [v.mask for v in node.outputs if v.mask is not None]
    return [mask for mask in dict.fromkeys(masks) if mask not in node.reads] if masks else masks


def works_with_another(node: Node) -> bool:
    """Whether the operation of a call, or one inside, works with the weight of another layer."""
    if node.nested is not None:
        return bool(node.nested.tied)
    return bool(all_ties(node.operation))


def all_ties(operation: Any) -> list[Any]:
    """Return the ties of a layer, as `ties/layer.py` keeps them on it.

    Those too whose source is not found, and for a `layers.Frozen` those of the layer inside.
    """
    if hasattr(type(operation), "keras_graft_inside"):
        operation = operation.keras_graft_inside
    return getattr(operation, "__dict__", {}).get("_keras_graft_ties", [])


def ties_of(operation: Any) -> list[Any]:
    """Return what is remembered on an operation of its ties; their sources are known."""
    return [tie for tie in all_ties(operation) if tie.source is not None]
