"""Another classifier on the same features."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.printable import quoted, shown
from keras_graft.recipes import _arguments


def new_head(model: Any, head: Any, at: Any = None, activation: Any = None) -> Any:
    """Drop the classifier of a network and put another head on its features.

    The features are what the last `Dense` reads: the last layer with weights, behind which only
    softmax, dropout, reshaping and the like may come, which are dropped with it; pooling there
    is refused. If it is inside a nested model, that one is opened. All layers up to there are
    shared with the donor.

    Args:
        model: A Keras model or a `Graph`.
        head: The number of classes, for a `Dense` of the name `"head"`; or a layer, a model or a
            function of one tensor.
        at: A selector of the features, where the network does not end with a `Dense`, or to cut
            deeper. Where they have more than two axes, a number as `head` averages over those in
            the middle first.
        activation: That of the `Dense`. None: the model gives logits.

    Returns:
        What `model` is.

    Raises:
        EditError: If it does not say what to drop; the way out is named.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(10, activation="softmax")(keras.layers.Dense(3, name="h")(x))
    >>> new = kg.recipes.new_head(keras.Model(x, y), 5)
    >>> [layer.name for layer in new.layers], new.output_shape
    (['x', 'h', 'head'], (None, 5))
    """
    activation = _arguments.activation("new_head", "activation", activation)
    graph = kg.read(model)
    if at is None:
        graph, features = _features(graph)
    else:
        found = kg.select(graph, at).values
        if len(found) != 1:
            raise kg.AmbiguousError(
                f"new_head: at={shown(at)} must name one value, but it names "
                f"{', '.join(repr(v.path) for v in found)}."
            )
        features = found[0]
    graph = kg.submodel(graph, outputs=features)
    if isinstance(head, (int, np.integer)):
        units = _arguments.whole("new_head", "head", head)
        head = _dense(units, activation, _layout(graph) if at is not None else None)
    # A frozen model stays so layer by layer; as a whole it would freeze the head too.
    graph = kg.insert(graph, head, after=graph.outputs[0]).replace(trainable=True)
    return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _dense(units: int, activation: Any, layout: str | None) -> Any:
    def dense(x: Any) -> Any:
        rank = len(x.shape)
        if layout and rank > 2:
            if rank > 5:
                raise kg.EditError(
                    f"new_head: the features are {tuple(x.shape)}, and Keras averages over three "
                    "axes at most. Give a function as head that turns them into (batch, numbers)."
                )
            average = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
            x = average(name="head_pool", data_format=layout, dtype=x.dtype)(x)
        return keras.layers.Dense(units, activation, name="head")(x)

    return dense


def _layout(graph: kg.Graph) -> str:
    """Return where the features have their channels, whatever the setting is now."""
    said = [getattr(_operation(n), "data_format", None) for n in kg.select(graph, "**").nodes]
    return next((layout for layout in reversed(said) if layout), "channels_last")


def _features(graph: kg.Graph) -> tuple[kg.Graph, Any]:
    """Return what the last `Dense` reads, and the graph in which that is a value of its own."""
    if len(graph.outputs) != 1:
        raise kg.EditError(
            f"new_head: {graph.name!r} has {len(graph.outputs)} outputs, "
            f"{', '.join(repr(v.label) for v in graph.outputs)}. Say which features get the head: "
            "at=..."
        )
    donor, node, behind = graph, graph.outputs[0].producer, []
    while node is not None and not _is_dense(node):
        if node.nested is not None:
            graph = kg.inline(graph, node)
            node, behind = graph.outputs[0].producer, []
        elif len(_data(node)) == 1 and not getattr(node.operation, "weights", ()):
            behind.append(node)
            node = _data(node)[0].producer
        else:
            break
    if node is None or not _is_dense(node):
        what = f"ends in {node.label!r} ({node.kind})" if node else "has no layer with weights"
        passed = {cut.value for cut in kg.cuts(graph)}  # not the pools of squeeze-and-excite
        pools = [
            n.label for n in graph.nodes if n.kind.startswith("Global") and n.outputs[0] in passed
        ]
        place = pools[-1] if pools else graph.label(graph.outputs[0])
        raise kg.EditError(
            f"new_head: {graph.name!r} {what}, not in a Dense, so it is not clear what to drop. "
            f"Name the features: kg.recipes.new_head(model, ..., at={quoted(place)})."
        )
    features = graph.value(node.inputs[0])
    for later in behind:
        before, after = _data(later)[0].spec, later.outputs[0].spec
        if _size(before) != _size(after):
            raise kg.EditError(
                f"new_head: {later.label!r} ({later.kind}), behind the Dense {node.label!r}, turns "
                f"{before} into {after}, and would be dropped with it. To keep it, replace only the "
                f"Dense: kg.replace(model, {quoted(_path(donor, node))}, ...). For a head on the "
                "mean of the features: kg.recipes.new_head(model, ..., "
                f"at={quoted(_path(donor, features.producer) if features.producer else features.label)})."
            )
    return graph, features


def _operation(node: kg.Node) -> Any:
    """Return what a node calls, and of what is frozen the layer inside."""
    return getattr(node.operation, "keras_graft_inside", node.operation)


def _is_dense(node: kg.Node) -> bool:
    return type(_operation(node)).__name__ == "Dense"


def _size(spec: Any) -> Any:
    """Return how many numbers a sample has, as far as that is known, in whatever shape."""
    shape = spec.shape[1:] if spec else ()
    return shape.count(None), math.prod(length for length in shape if length is not None)


def _path(donor: kg.Graph, node: kg.Node) -> str:
    """Return where a node was before models were opened."""
    return kg.select(donor, node.operation).nodes[-1].path


def _data(node: kg.Node) -> list[Any]:
    """Return the inputs of a call, without those that are the masks of others."""
    masks = {value.mask for value in node.inputs}
    return [v.within(node.home, node.scope) for v in node.inputs if v not in masks]
