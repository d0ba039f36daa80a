"""`unshare`: give some calls of a shared layer their own copy of it."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import advice
from keras_graft.errors import WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import Names
from keras_graft.graph.node import Node
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.clone import Weights, check_weights, duplicate
from keras_graft.model.swap import calls_of, exchanged
from keras_graft.model.verb import verb


@verb
def unshare(graph: Graph, target: Any, weights: Weights = "copy") -> Graph:
    """Give calls of a shared layer their own layers.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of calls: `"shared#1"`. Each gets its own layer, named `shared_1`,
            `shared_2` and so on. If all calls of a layer are selected, the first keeps it.
        weights: `"copy"`: the new layer starts with the same values. `"fresh"`: with new ones. A
            weight that is tied to a weight of another layer stays tied to it.

    Raises:
        WeightsError: If the layer is called only once, or cannot be copied.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> layer = keras.layers.Dense(4, name="d")
    >>> model = keras.Model(x, layer(layer(x)))
    >>> new = kg.unshare(model, "d#1")
    >>> [layer.name for layer in new.layers], new.count_params()
    (['x', 'd', 'd_1'], 40)
    """
    check_weights(weights)
    chosen = list(select_nodes(graph, target))
    for operation in {id(n.operation): n.operation for n in chosen}.values():
        calls = calls_of(graph, [operation])
        path = calls[0].path
        if not isinstance(operation, keras.Layer):
            raise WeightsError(
                f"unshare: {path!r} ({calls[0].kind}) is an op: it holds no weights to share."
            )
        if len(calls) == 1:
            raise WeightsError(
                f"unshare: {path!r} ({calls[0].kind}) is called once, so it shares nothing. "
                f"{advice.call('sharing')} lists what is shared."
            )
        if all(node in chosen for node in calls):
            chosen.remove(calls[0])
    names: dict[int, Names] = {}

    def new(node: Node) -> Any:
        level = node.home
        if id(level) not in names:
            names[id(level)] = Names([*level.input_names, *map(level.name_of, level.steps)])
        return duplicate(node, names[id(level)].take(node.name), weights)

    return exchanged(graph, chosen, new)
