"""Whether two graphs compute the same with the same layers."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.same import comparable, form_of


def alike(one: Graph, other: Graph) -> bool:
    """Whether two graphs make the same calls of the same layers, with the same shapes.

    A layer with code of its own that is called twice has a graph for each call.
    """
    return one is other or _form(one) == _form(other)


def _form(graph: Graph) -> Any:
    number: dict[Any, int] = {}
    for value in graph.inputs:
        number.setdefault(value.key, len(number))
    steps = []
    for node in graph.steps:
        reads = [number.get(v.key) for v in node.reads]
        for value in node.gives:
            number.setdefault(value.key, len(number))
        inside = None if node.nested is None else _form(node.nested)
        steps.append((_operation(node), form_of(node), reads, inside))
    return steps, [number.get(v.key) for v in graph.outputs], [v.spec for v in graph.inputs]


def _operation(node: Node) -> Any:
    """Return what stands for an operation: an op is made again in each trace, a layer is not."""
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return id(operation)
    own = {k: v for k, v in vars(operation).items() if not k.startswith("_") and k != "name"}
    return type(operation), comparable(own, _known)


def _known(item: Any) -> Any:
    return comparable(item.get_config(), id) if hasattr(item, "get_config") else id(item)
