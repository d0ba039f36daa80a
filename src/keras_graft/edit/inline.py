"""The verb `inline`: replace calls of nested models by the layers inside."""

from __future__ import annotations

from typing import Any

from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.graph.opened import Opened
from keras_graft.graph.opened import inline as in_place
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.read import opened_for
from keras_graft.model.verb import verb
from keras_graft.printable import shown


@verb
def inline(graph: Graph, target: Any = "**") -> Graph:
    """Replace the calls of nested models by the layers inside; also of layers that hold layers.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nested models, and of layers that can be opened; by default all that
            are open, at every depth. A model inside a selected one stays a model unless it is
            selected too. All calls of a model are opened.

    Raises:
        EditError: If the selector names nothing that can be opened; the message says why.

    >>> import keras, keras_graft as kg
    >>> inner = keras.Input((4,), name="inner")
    >>> encoder = keras.Model(inner, keras.layers.Dense(3, name="d")(inner), name="encoder")
    >>> x = keras.Input((4,), name="x")
    >>> [layer.name for layer in kg.inline(keras.Model(x, encoder(x))).layers]
    ['x', 'd']
    """
    found = select_nodes(graph, target) if len(graph) else ()
    if target != "**" and any(node.nested is None for node in found):
        graph = opened_for(graph, [f"{node.path}/*" for node in found])
        found = select_nodes(graph, target)
    left = [node.values[0] for node in found if node.nested is not None]
    if not left and target != "**":
        raise EditError(
            f"inline: {shown(target)} names no nested model that can be opened: it names "
            f"{listed(f'{n.path} ({n.closed or n.kind})' for n in found)}."
        )
    opened = Opened(graph)
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
        return in_place(level, list(dict.fromkeys(calls)))[0]

    places: list[Place] = [(node,) for value in left if (node := value.producer) is not None]
    return at_depth(opened.graph, places, edit)
