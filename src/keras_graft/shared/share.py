"""`share`: replace several layers by one shared layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of, items_of, listed
from keras_graft.graph.node import Node
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.model.clone import duplicate
from keras_graft.model.swap import calls_of, exchanged
from keras_graft.model.verb import verb
from keras_graft.printable import shown
from keras_graft.shared.kept import retied


@verb
def share(
    graph: Graph, layers: Sequence[Any], weights: Literal["first", "mean"] = "first"
) -> Graph:
    """Replace several layers by one shared layer, as ALBERT does with transformer blocks.

    Args:
        model: A Keras model or a `Graph`.
        layers: Selectors of the layers: of one class and configuration, with weights of the same
            shapes. All their calls become calls of one layer, which has the name of the first.
            A weight that is tied to one of them is then tied to that layer.
        weights: `"first"`: that layer is the first one, shared with the donor. `"mean"`: a new
            layer with the mean of their weights.

    Raises:
        WeightsError: If there are fewer than two layers, if they differ in class, configuration or
            shapes, or if one is tied.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(x))
    >>> kg.share(keras.Model(x, y), ["a", "b"]).count_params()
    20
    """
    if not is_one_of(weights, "first", "mean"):
        raise WeightsError(f'share: weights must be "first" or "mean", got {shown(weights)}.')
    found = {id(n.operation): n for item in items_of(layers) for n in select_nodes(graph, item)}
    nodes = list(found.values())
    if len(nodes) < 2:
        named = f"one layer, {nodes[0].path!r}" if nodes else "no layer"
        raise WeightsError(f"share: {layers!r} names {named}; give two or more.")
    for node in nodes[1:]:
        _check_alike(nodes[0], node)
    one = nodes[0].operation
    if weights == "first":
        nodes = nodes[1:]
    else:
        for layer in (x for n in nodes for x in _keras.layers_inside(n.operation)):
            if layer.quantization_mode or getattr(layer, "lora_enabled", False):
                what = "is quantized" if layer.quantization_mode else "has LoRA adapters"
                raise WeightsError(
                    f"share: {layer.name!r} {what}, and the mean of its stored numbers is not the "
                    'mean of its weights. Use weights="first".'
                )
        one = duplicate(nodes[0], one.name)
        every = [node.operation.weights for node in nodes]
        for target, *values in zip(one.weights, *every, strict=True):
            arrays = [np.asarray(keras.ops.convert_to_numpy(v), "float64") for v in values]
            target.assign(np.mean(arrays, axis=0))
    pairs = [pair for n in nodes for pair in zip(one.weights, n.operation.weights, strict=True)]
    places = calls_of(graph, [node.operation for node in nodes])
    return retied(exchanged(graph, places, lambda node: one, alike=False), pairs)


def _check_alike(first: Node, other: Node) -> None:
    a, b = first.operation, other.operation
    verb = f"share {first.path!r} and {other.path!r}"
    for node in (first, other):
        if not isinstance(node.operation, keras.Layer) or node.nested is not None:
            raise WeightsError(f"{verb}: {node.path!r} ({node.kind}) is not a layer with weights.")
        if _ties.ties_of(node.operation):
            raise WeightsError(f"{verb}: a weight of {node.path!r} is tied. Untie it first.")
    if type(a) is not type(b):
        raise WeightsError(f"{verb}: they are a {first.kind} and a {other.kind}.")
    shapes = [[(v.name, tuple(v.shape), v.dtype) for v in layer.weights] for layer in (a, b)]
    if shapes[0] != shapes[1]:
        raise WeightsError(
            f"{verb}: their weights differ: {listed(map(str, shapes[0]))} against "
            f"{listed(map(str, shapes[1]))}."
        )
    one, two = _keras.get_config(a), _keras.get_config(b)
    differ = [k for k in one if k != "name" and not _alike(one[k], two.get(k))]
    if differ:
        raise WeightsError(
            f"{verb}: their configurations differ in "
            + ", ".join(f"{k} ({one[k]!r} against {two.get(k)!r})" for k in differ)
            + "."
        )


def _alike(a: Any, b: Any) -> bool:
    """Whether two configuration entries are equal, except for the names of layers inside."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"name", "shared_object_id"}
        return all(_alike(a.get(k), b.get(k)) for k in keys)
    return a == b
