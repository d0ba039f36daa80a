"""Compare recorded layer calls: equal arguments in an equal form."""

from __future__ import annotations

from typing import Any

from keras_graft.graph.node import Node, Slot

_PLAIN = (str, int, float, complex, bool, bytes)


def comparable(structure: Any) -> Any:
    """Return recorded arguments in a hashable form that is equal for equal arguments.

    Other objects, such as arrays, are compared by their `id`: the caller must keep them alive.

    >>> comparable({"a": [1], "b": 2}) == comparable({"b": 2, "a": [1]})
    True
    >>> comparable([1]) == comparable([True])
    False
    """
    if structure is None or isinstance(structure, Slot):
        return structure
    if isinstance(structure, dict):
        items = sorted(structure.items(), key=lambda item: str(item[0]))
        return tuple((str(key), comparable(value)) for key, value in items)
    if isinstance(structure, list | tuple):
        return tuple(comparable(v) for v in structure)
    if type(structure) in _PLAIN:
        return type(structure).__name__, structure
    return id(structure)


def form_of(node: Node) -> Any:
    """Return how a node calls its operation: equal for two calls that differ only in data."""
    specs = [v.spec for v in node.inputs], [v.spec for v in node.outputs]
    call = comparable(node.template.args), comparable(dict(node.template.kwargs))
    return (*call, *map(tuple, specs))
