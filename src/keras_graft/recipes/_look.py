"""What several recipes ask of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

import keras_graft as kg


def data(node: kg.Node) -> list[Any]:
    """Return the inputs of a call, without those that are the masks of others."""
    masks = {value.mask for value in node.inputs}
    return [v.within(node.home, node.scope) for v in node.inputs if v not in masks]


def out_of_reach(graph: kg.Graph, kind: type) -> Iterator[tuple[kg.Node, Any]]:
    """Yield layers of a kind that are parts of other layers, each with the first call of that one.

    What is inside a wrapper, a `Frozen` or a layer of yours is no node, and no verb reaches it.
    """
    seen: set[int] = set()
    for node in kg.select(graph, "**").nodes:
        if node.nested is None and isinstance(node.operation, keras.Layer):
            whole = getattr(node.operation, "keras_graft_inside", node.operation)
            for layer in whole._flatten_layers():
                if (
                    layer is not node.operation
                    and isinstance(layer, kind)
                    and id(layer) not in seen
                ):
                    seen.add(id(layer))
                    yield node, layer
