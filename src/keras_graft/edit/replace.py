"""The verb `replace`: replace nodes by a layer, a model or a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from keras_graft.edit import changes as _edit
from keras_graft.edit.incoming import At
from keras_graft.edit.keep import carry, match_weights
from keras_graft.edit.places import WhatComesIn, nodes_named
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Node, Value
from keras_graft.model.infer import infer
from keras_graft.model.nested import Place, at_depth
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.shared.kept import edited, retied, tied_again


@verb
def replace(old: Graph, target: Any, new: Any, weights: Literal["keep"] | None = None) -> Graph:
    """Replace nodes by a layer, a model or a function.

    The new layer is called with the recorded arguments that it takes. A layer that a function makes
    without a name is named after its place: `"act_dropout"` for a `Dropout` in the place of
    `"act"`. A layer that is given directly keeps its name.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of nodes: all calls of a layer, or one (`"shared#1"`).
        new: A layer, a model or a function of tensors; or a factory, a function that gets the node
            and returns one of these. A function is first called with the node; if that raises, or
            returns nothing that can be put in, it is called as a function of tensors. One layer
            for several places is refused, unless a factory returns it.
        weights: `"keep"`: trained values are copied from the weights of the old layer to those of
            the same names in the new one. None: the new layer keeps its own values. `kg.diff`
            shows what was kept.

    Returns:
        A Keras model or a `Graph`, as `model` is, with all other layers shared.

    Raises:
        EditError: If `new` does not take what is read there, gives another number of values, or is
            one layer for several places; if `weights="keep"` finds no weight of the same name, or
            one of another shape.
        BuildError: If a node behind it does not take what it gives.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.ReLU(name="act")(keras.layers.Dense(3, name="d")(x))
    >>> model = keras.Model(x, y, name="tiny")
    >>> new = kg.replace(model, "act", keras.layers.Activation("gelu", name="gelu"))
    >>> [layer.name for layer in new.layers], new.get_layer("d") is model.get_layer("d")
    (['x', 'd', 'gelu'], True)
    """
    if weights is not None and not is_one_of(weights, "keep"):
        raise EditError(f'replace: weights must be "keep" or None, got {shown(weights)}.')
    what = WhatComesIn(new, "replace")
    keep: dict[int, Any] = {}

    def edit(level: Graph, places: list[Place]) -> Graph:
        nodes = [level.node(node) for (node,) in places]  # type: ignore[arg-type]
        what.begin(nodes)

        def put(graph: Graph, inputs: Sequence[Value], node: Node | None) -> _edit.Made:
            assert node is not None
            place = At(graph, tuple(inputs), node, "replace", node)
            steps, outputs, layer = what.put(place)
            if weights and layer is not node.operation:
                if layer is None:
                    raise EditError(f'{place.edit}: weights="keep" needs a layer, not a function.')
                taken = keep.get(id(layer))
                if level.calls(layer) or (taken and taken[0] is not node.operation):
                    raise EditError(
                        f'{place.edit}: weights="keep" would give {layer.name!r} the weights of '
                        f"{node.operation.name!r}, and it is already in the model. Give a new "
                        "layer for each."
                    )
                matched = match_weights(node.operation, layer, place.edit)
                keep[id(layer)] = node.operation, layer, place.edit, *matched
            return steps, outputs

        return _edit.replace(level, nodes, put, infer)

    graph = at_depth(old, [(node,) for node in nodes_named(old, target, "replace")], edit)
    for layer, new, edit_, _, _ in keep.values():
        tied_again(graph, layer, new, edit_)
    for _, new, _, report, pairs_ in keep.values():
        carry(new, report, pairs_)
    if keep:
        graph = retied(graph, [pair for *_, pairs_ in keep.values() for pair in pairs_])
    return edited(old, graph, f"replace {shown(target)}")
