"""`unfreeze`: layers are trained again, in the model itself or in a new one."""

from __future__ import annotations

from typing import Any, TypeVar

import keras

from keras_graft.edit.flags import Flags
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.select import leaves
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.build import build
from keras_graft.model.read import read
from keras_graft.model.recording import step
from keras_graft.printable import shown
from keras_graft.weights.go_on_training import go_on_training

_M = TypeVar("_M")


def unfreeze(
    model: _M, selector: Any = "**", batch_norm: bool = False, in_place: bool = False
) -> _M:
    """Train layers that were frozen, by `kg.freeze` or by `layer.trainable = False`.

    Both are undone, for the selected layers, the layers inside them, and the models around them.
    Layers that are not selected stay as they are. A frozen BatchNormalization stays in inference
    mode: it keeps its averages, and its scale and offset are not trained. Weights under a LoRA
    adapter stay frozen too.

    The result is a new model with the same weights, and the donor keeps its flags: a layer that is
    frozen there and trained here is another layer object, with the same values. With
    `in_place=True` the flags of the model's own layers are set, for every model that has them.

    A compiled model is compiled again as it was. The optimizer keeps its state, as with
    `kg.carry_optimizer`: weights that were trained before go on with their momenta, and weights
    that are new to it start fresh. To use another learning rate for each part, compile with
    `kg.learning_rates`.

    Flags of layers inside a layer of your own are in no file: Keras saves only the outer flag. A
    `training=` that was recorded for a call is not restored: `kg.freeze` drops it.

    Args:
        model: A Keras model or a `Graph`.
        selector: Which layers; all by default. All calls of a layer are meant, and all layers
            inside a nested model that is selected.
        batch_norm: Whether BatchNormalization layers are trained again too.
        in_place: Whether to change the model that is given.

    Returns:
        The new model or graph; with `in_place`, the model that was given.

    Raises:
        EditError: If only BatchNormalization is selected, without `batch_norm`; if a frozen layer
            that is not selected uses a variable of one that is; with `in_place`, if `kg.freeze` has
            wrapped a layer.
        WeightsError: If the optimizer cannot be kept. Nothing is changed then.

    >>> import keras, keras_graft as kg
    >>> layers = [keras.layers.Dense(3, name="trunk"), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> frozen = kg.freeze(model, "trunk")
    >>> len(frozen.trainable_variables), len(kg.unfreeze(frozen, "trunk").trainable_variables)
    (2, 4)
    """
    if in_place and not isinstance(model, keras.Model):
        raise EditError(
            f"unfreeze: in_place=True changes a Keras model, got {shown(model)}. Leave it out: a graph "
            "never changes, and the result is a new one."
        )
    graph = read(model)
    given = {"selector": selector, "batch_norm": batch_norm}
    with step("unfreeze", graph, given) as remembering:
        chosen = select_nodes(graph, selector) if len(graph) else ()
        flags = Flags(graph, {id(n.operation) for n in leaves(chosen)}, batch_norm)
        if in_place:
            if not flags.gained:
                return model
            with flags.set_in_place(model):
                go_on_training(model, model)
            return model
        result = remembering(flags.graph())
    if isinstance(model, Graph):
        return result
    new = build(result)
    go_on_training(model, new)
    return new  # type: ignore[return-value]
