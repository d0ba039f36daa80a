"""Lookup tables of one graph: producers, consumers, names. Updated incrementally by edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_graft.graph.names import Names
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import all_ties

Position = tuple[int, ...]
"""The position of a node in graph order: only for comparison, not an index. Several nodes that
replace one have its position with one more number."""

Change = tuple[Position, Node | None, Sequence[Node]]
"""A position, the node removed there (None: no node), and the nodes put there."""

_DEEP = 8
"""All positions are numbered again when one would get longer than this."""


class Index:
    """Lookup tables of one graph: built in one pass, or derived from the tables before an edit.

    Nodes and values are looked up by their keys, tensors and operations by their `id`. Where an
    entry has several items, they are in no particular order after an edit.

    Attributes:
        places: For each node, its position and the node as stored in this graph.
        made: For each value, the node that gives it (None for an input) and the value as stored.
        used: For each value, the nodes that read it.
        carried: For each mask, the nodes that output it beside a tensor and do not read it: an
            `Embedding` does not read the mask that comes with its output.
        read_from: For each KerasTensor, the values that were read from it.
        calls: For each operation, its calls.
        names: For each operation, its name.
        named: For each name, its operation.
        taken: The names in use.
        tied: The nodes that use a weight of another layer.
    """

    __slots__ = (
        "calls", "carried", "made", "named", "names", "places", "read_from", "taken", "tied", "used",
    )  # fmt: skip

    def __init__(self, inputs: Sequence[Value], steps: Sequence[Node]) -> None:
        self.places: dict[Any, tuple[Position, Node]] = _places(steps)
        self.made: dict[Any, tuple[Node | None, Value]] = {}
        self.used: dict[Any, tuple[Node, ...]] = {}
        self.carried: dict[Any, tuple[Node, ...]] = {}
        self.read_from: dict[int, tuple[Value, ...]] = {}
        self.calls: dict[int, tuple[Node, ...]] = {}
        self.names: dict[int, str] = {}
        self.named: dict[str, Any] = {}
        self.taken = Names()
        self.tied: dict[Any, Node] = {}
        for value in inputs:
            self._make(value, None)
        for node in steps:
            self._add(node)

    def after(self, changes: Sequence[Change], steps: Sequence[Node]) -> Index:
        """Return the tables after `changes`; `steps` are all nodes, in their new order.

        Operations that stay keep their names: an edit renames no other operation.
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
            self.names[key] = name = self.taken.take(_wanted_name(node))
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
        self.tied.pop(node.key, None)  # what it is tied to may have been told only afterwards
        if key not in self.calls and key not in staying:
            name = self.names[key]
            self.taken.free(name)
            del self.names[key], self.named[name]


def _wanted_name(node: Node) -> str:
    """Return the name under which a model has an operation, else the operation's own."""
    if node.known_as is not None and node.known_as[0] is node.operation:
        return node.known_as[1]
    return str(node.operation.name)


def _places(steps: Iterable[Node]) -> dict[Any, tuple[Position, Node]]:
    return {node.key: ((number,), node) for number, node in enumerate(steps)}


def _append(table: dict[Any, tuple[Any, ...]], key: Any, item: Node | Value) -> None:
    table[key] = (*table.get(key, ()), item)


def _remove(table: dict[Any, tuple[Any, ...]], key: Any, item: Node | Value) -> None:
    left = tuple(other for other in table[key] if other.key is not item.key)
    if left:
        table[key] = left
    else:
        del table[key]


def carries(node: Node) -> list[Value]:
    """Return the masks that a node outputs beside its tensors and does not read."""
    masks = [v.mask for v in node.outputs if v.mask is not None]
    return [mask for mask in dict.fromkeys(masks) if mask not in node.reads] if masks else masks


def works_with_another(node: Node) -> bool:
    """Whether the operation of a call, or one inside it, uses a weight of another layer."""
    if node.nested is not None:
        return bool(node.nested.tied)
    return bool(all_ties(node.operation))
