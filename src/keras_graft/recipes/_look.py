"""What several recipes ask of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

import keras_graft as kg
from keras_graft import _keras


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
            for layer in _parts(node.operation):
                if isinstance(layer, kind) and id(layer) not in seen:
                    seen.add(id(layer))
                    yield node, layer


def _parts(layer: Any) -> Iterator[Any]:
    inside = getattr(layer, "keras_graft_inside", None)
    for part in [inside] if inside is not None else _keras.sublayers(layer):
        yield part
        yield from _parts(part)
