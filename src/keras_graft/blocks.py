"""Verbs for whole blocks: open nested models, fold a block into one, repeat a block."""

from __future__ import annotations

from typing import Any

from keras_graft import nest as _nest
from keras_graft.build import like
from keras_graft.depth import Place, at_depth
from keras_graft.errors import EditError
from keras_graft.graph import Graph
from keras_graft.node import Node
from keras_graft.read import read
from keras_graft.select import listed, select


def inline(model: Any, target: Any = "**") -> Any:
    """Put the layers of nested models in the places of their calls.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nested models. By default all, at every depth; a model inside one
            that is selected stays a model unless it is selected too. All calls of one are opened.

    Raises:
        EditError: If the selector names no nested model.

    >>> import keras, keras_graft as kg
    >>> inner = keras.Input((4,), name="inner")
    >>> encoder = keras.Model(inner, keras.layers.Dense(3, name="d")(inner), name="encoder")
    >>> x = keras.Input((4,), name="x")
    >>> [layer.name for layer in kg.inline(keras.Model(x, encoder(x))).layers]
    ['x', 'd']
    """
    graph = read(model)
    found = select(graph, target).nodes if len(graph) else ()
    left = [node.values[0] for node in found if node.nested is not None]
    if not left and target != "**":
        raise EditError(
            f"inline: {target!r} names no nested model that can be opened: it names "
            f"{listed(f'{n.path} ({n.kind})' for n in found)}."
        )
    opened = _nest.Opened(graph)
    while here := [value for value in left if not value.scope]:
        calls = [
            c
            for v in here
            if (n := opened.graph.producer(v))
            for c in opened.graph.calls(n.operation)
        ]
        left = opened.open(list(dict.fromkeys(calls)), [value for value in left if value.scope])

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for (node,) in places if isinstance(node, Node)]
        calls = [call for node in nodes for call in level.calls(node.operation)]
        return _nest.inline(level, list(dict.fromkeys(calls)))[0]

    places: list[Place] = [(node,) for value in left if (node := value.producer) is not None]
    return like(model, at_depth(opened.graph, places, edit))
