"""Compare recorded calls: equal arguments have an equal form, equal values an equal number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Slot, Value

T = TypeVar("T")

_PLAIN = (str, int, float, complex, bool, bytes)


def comparable(structure: Any, other: Callable[[Any], Any] = id) -> Any:
    """Return recorded arguments in a hashable form that is equal for equal arguments.

    `other` returns what stands for any other object, such as an array. By default it is the `id`:
    the caller must keep the objects alive.

    >>> comparable({"a": [1], "b": 2}) == comparable({"b": 2, "a": [1]})
    True
    >>> comparable([1]) == comparable([True])
    False
    """
    if structure is None or isinstance(structure, Slot):
        return structure
    if isinstance(structure, dict):
        items = sorted(structure.items(), key=lambda item: str(item[0]))
        return tuple((str(key), comparable(value, other)) for key, value in items)
    if isinstance(structure, list | tuple):
        return tuple(comparable(v, other) for v in structure)
    if type(structure) in _PLAIN:
        return type(structure).__name__, structure
    return other(structure)


def form_of(node: Node) -> Any:
    """Return how a node calls its operation: equal for two calls that differ only in data."""
    specs = [v.spec for v in node.inputs], [v.spec for v in node.outputs]
    call = comparable(node.template.args), comparable(dict(node.template.kwargs))
    return (*call, *map(tuple, specs))


def numbered(
    graph: Graph, given: Sequence[T], call: Callable[[Node, list[T]], Sequence[T]]
) -> dict[Value, T]:
    """Return a number for each value: equal numbers mean the same calls on the same inputs.

    This is value numbering, by which compilers find common subexpressions. `given` are the numbers
    of the inputs. `call` returns those of what a node gives, from those of what it reads; it says
    which arguments count. A number is anything that can be compared, such as a digest.
    """
    found = dict(zip(graph.inputs, given, strict=True))
    for node in graph.steps:
        numbers = call(node, [found[value] for value in node.reads])
        for value, number in zip(node.gives, numbers, strict=True):
            found.setdefault(value, number)
    return found
