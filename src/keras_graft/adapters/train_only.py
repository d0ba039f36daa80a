"""`train_only`: let some layers train, and freeze all others."""

from __future__ import annotations

from typing import Any

from keras_graft.adapters.lora import with_trained
from keras_graft.adapters.rebuilt import rebuilt
from keras_graft.adapters.state import states_of
from keras_graft.graph.graph import Graph
from keras_graft.model.verb import verb


@verb
def train_only(graph: Graph, selector: Any) -> Graph:
    """Return the model in which only these layers train. The donor's flags stay as they are.

    The layers that train get copies of the donor's weights, so training changes nothing in the
    donor. All others share them. Dropout is as before; a frozen BatchNormalization uses its
    averages, as with `trainable=False`. Low-rank adapters elsewhere are frozen too.

    Args:
        model: A Keras model or a `Graph`.
        selector: Which layers; for a nested model, all inside.

    Raises:
        NothingSelectedError: If it names no layer with weights.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(2, name="head")(keras.layers.Dense(3, name="body")(x))
    >>> model = keras.Model(x, y)
    >>> new = kg.train_only(model, "head")
    >>> [v.path for v in new.trainable_variables], len(model.trainable_variables)
    (['head/kernel', 'head/bias'], 4)
    """
    states = {}
    for node, state in states_of(graph):
        adapters = tuple(a.replace(trains=False) for a in state.adapters)
        states[id(node.operation)] = state.replace(adapters=adapters, trains=False)
    instead = with_trained(graph, states, selector, "train_only")
    for key, state in states.items():
        if state.trains:
            own = (a.replace(trains=a.active) for a in state.adapters)
            states[key] = state.replace(adapters=tuple(own))
    return rebuilt(graph, states, "train_only", instead, only=True)
