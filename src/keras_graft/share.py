"""Layers of their own for some calls, and one layer for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.build import like
from keras_graft.clone import Weights, check_weights, duplicate
from keras_graft.errors import WeightsError
from keras_graft.exchange import calls_of, exchanged
from keras_graft.naming import Names, is_one_of, items_of, listed
from keras_graft.node import Node
from keras_graft.printable import shown
from keras_graft.reader import read
from keras_graft.select import select
from keras_graft.ties import retied


def unshare(model: Any, target: Any, weights: Weights = "copy") -> Any:
    """Give calls of a shared layer a layer of their own.

    Args:
        model: A Keras model or a `Graph`.
        target: A selector of calls: `"shared#1"`. Each gets a layer of its own, called `shared_1`,
            `shared_2` and so on; of all calls of a layer, the first keeps it.
        weights: `"copy"`: the new layer begins with the same values. `"fresh"`: with new ones. A
            weight that is tied to another layer's stays tied to it.

    Raises:
        WeightsError: If the layer is called once; if it cannot be made again.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> layer = keras.layers.Dense(4, name="d")
    >>> model = keras.Model(x, layer(layer(x)))
    >>> new = kg.unshare(model, "d#1")
    >>> [layer.name for layer in new.layers], new.count_params()
    (['x', 'd', 'd_1'], 40)
    """
    check_weights(weights)
    graph = read(model)
    chosen = list(select(graph, target).nodes)
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
                "kg.sharing(model) lists what is shared."
            )
        if all(node in chosen for node in calls):
            chosen.remove(calls[0])
    names: dict[int, Names] = {}

    def new(node: Node) -> Any:
        level = node.home
        if id(level) not in names:
            names[id(level)] = Names([*level.input_names, *map(level.name_of, level.steps)])
        return duplicate(node, names[id(level)].take(node.name), weights)

    return like(model, exchanged(graph, chosen, new))


def share(model: Any, layers: Sequence[Any], weights: Literal["first", "mean"] = "first") -> Any:
    """Let several layers be one, as ALBERT does with the blocks of a transformer.

    Args:
        model: A Keras model or a `Graph`.
        layers: Selectors of the layers: of one class and configuration, with weights of the same
            shapes. All calls of them become calls of one layer, which has the name of the first.
            What is tied to one of them is tied to that layer then.
        weights: `"first"`: it is the first layer, shared with the donor. `"mean"`: a new layer with
            the mean of the weights of all.

    Raises:
        WeightsError: If they are fewer than two, differ in class, configuration or shapes, or if
            one is tied.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(x))
    >>> kg.share(keras.Model(x, y), ["a", "b"]).count_params()
    20
    """
    if not is_one_of(weights, "first", "mean"):
        raise WeightsError(f'share: weights must be "first" or "mean", got {shown(weights)}.')
    graph = read(model)
    found = {id(n.operation): n for item in items_of(layers) for n in select(graph, item).nodes}
    nodes = list(found.values())
    if len(nodes) < 2:
        named = f"one layer, {nodes[0].path!r}" if nodes else "no layer"
        raise WeightsError(f"share: {layers!r} names {named}; two or more become one.")
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
                    f"share: {layer.name!r} {what}, and the mean of such numbers is not that of "
                    'what they stand for. Take weights="first".'
                )
        one = duplicate(nodes[0], one.name)
        every = [node.operation.weights for node in nodes]
        for target, *values in zip(one.weights, *every, strict=True):
            arrays = [np.asarray(keras.ops.convert_to_numpy(v), "float64") for v in values]
            target.assign(np.mean(arrays, axis=0))
    pairs = [pair for n in nodes for pair in zip(one.weights, n.operation.weights, strict=True)]
    places = calls_of(graph, [node.operation for node in nodes])
    return like(model, retied(exchanged(graph, places, lambda node: one, alike=False), pairs))


def _check_alike(first: Node, other: Node) -> None:
    a, b = first.operation, other.operation
    verb = f"share {first.path!r} and {other.path!r}"
    for node in (first, other):
        if not isinstance(node.operation, keras.Layer) or node.nested is not None:
            raise WeightsError(f"{verb}: {node.path!r} ({node.kind}) is no layer with weights.")
        if _keras.ties_of(node.operation):
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
    """Whether two entries of configurations differ in the names of layers inside at most."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"name", "shared_object_id"}
        return all(_alike(a.get(k), b.get(k)) for k in keys)
    return a == b
