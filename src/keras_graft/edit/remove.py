"""The verb `remove`: remove nodes; their consumers read the node's input instead."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from keras_graft.edit import changes as _edit
from keras_graft.edit.places import nodes_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node, Value
from keras_graft.graph.select import select
from keras_graft.graph.walk import read_places
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.shared.kept import edited


@verb
def remove(graph: Graph, target: Any, keep: Any = None) -> Graph:
    """Remove nodes: the consumers of a node read its input instead.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes.
        keep: Which input passes through, for nodes with several inputs, or if the shape should
            change: a selector, for several nodes a list with one input of each, or the number of
            the input, from 0. By default the only input, or the only one of the output's shape
            and dtype: of a transformer block, not its padding mask.

    Raises:
        EditError: If it is not clear which input passes through, or if the shape changes.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(3, name="d")(keras.layers.Dropout(0.5, name="drop")(x))
    >>> [layer.name for layer in kg.remove(keras.Model(x, y), "drop").layers]
    ['x', 'd']
    """
    nodes = nodes_named(graph, target, "remove")
    places: list[Place] = [(node,) for node in nodes]
    if isinstance(keep, Integral) and not isinstance(keep, bool):
        places = [(node, _numbered(node, int(keep))) for node in nodes]
    elif keep is not None:
        kept = select(graph, keep).values
        places = [(node, _kept(node, kept, keep)) for node in nodes]

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for node, *_ in places]  # type: ignore[arg-type]
        numbers = [
            node.inputs.index(kept[0].within(None)) if kept else None  # type: ignore[arg-type]
            for node, (_, *kept) in zip(nodes, places, strict=True)
        ]
        return _edit.remove(level, nodes, numbers, infer)

    return edited(graph, at_depth(graph, places, edit), f"remove {shown(target)}")


def _numbered(node: Node, number: int) -> Value:
    """Return an input of a node by its number, as `before="add:1"` counts them."""
    own = read_places(node)
    if not 0 <= number < len(own):
        raise EditError(
            f"remove {node.label!r}: keep={shown(number)}, but it has {len(own)} inputs, "
            f"counted from 0: {listed(node.home.label(node.inputs[i]) for i in own)}."
        )
    return node.inputs[own[number]].within(node.home, node.scope)


def _kept(node: Node, kept: Sequence[Value], keep: Any) -> Value:
    """Return the one input of a node that is among `kept`."""
    inputs = [v for v in kept if v.scope == node.scope and v.within(None) in node.inputs]
    if len(inputs) != 1:
        found = f"names {listed(v.label for v in inputs)} of" if inputs else "is none of"
        raise EditError(
            f"remove {node.label!r}: keep={shown(keep)} {found} its inputs "
            f"{listed(map(node.home.label, node.inputs))}. For several nodes at once give a list "
            "with one input of each, or the number of the input, such as keep=0."
        )
    return inputs[0]
