"""What several recipes ask of a network."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import keras

import keras_graft as kg
from keras_graft import _keras


def data(node: kg.Node) -> list[Any]:
    """Return the inputs of a call, without those that are the masks of others."""
    masks = {value.mask for value in node.inputs}
    return [v.within(node.home, node.scope) for v in node.inputs if v not in masks]


def out_of_reach(graph: kg.Graph, kind: type) -> Iterator[tuple[kg.Node, Any]]:
    """Yield layers of a kind that are parts of other layers, each with the first call of that one.

    What is inside a wrapper, a `Frozen` or a layer of yours is no node, and no verb reaches it.
    """
    seen: set[int] = set()
    for node in kg.select(graph, "**").nodes:
        if node.nested is None and isinstance(node.operation, keras.Layer):
            for layer in _parts(node.operation):
                if isinstance(layer, kind) and id(layer) not in seen:
                    seen.add(id(layer))
                    yield node, layer


def _parts(layer: Any) -> Iterator[Any]:
    inside = getattr(layer, "keras_graft_inside", None)
    for part in [inside] if inside is not None else _keras.sublayers(layer):
        yield part
        yield from _parts(part)


def whole(recipe: str, name: str, number: Any) -> int:
    """Return a count that was given, such as a number of classes.

    Raises:
        EditError: If it is no whole number above 0.
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise kg.EditError(f"{recipe}: {name} must be a whole number above 0, got {number!r}.")
    return int(number)


def checked(recipe: str, name: str, activation: Any) -> Any:
    """Return an activation that was given.

    Raises:
        EditError: If Keras knows no such function.
    """
    try:
        keras.activations.get(activation)
    except (ValueError, TypeError) as error:
        raise kg.EditError(
            f"{recipe}: {name}={activation!r} is no activation. Give the name of one of "
            "keras.activations, or a function."
        ) from error
    return activation
