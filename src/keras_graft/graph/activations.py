"""Activation functions that layers are given by name: `Activation("relu")`, `Dense(8, "relu")`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.tables import counted


def as_activation(selector: Any, nodes: Iterable[Node]) -> str:
    """Say which layers have an activation of the name of a class that selects nothing.

    Args:
        selector: What selects nothing, such as `keras.layers.ReLU`.
        nodes: The nodes.

    Returns:
        The words for an error; empty if there are none.
    """
    if not isinstance(selector, type):
        return ""
    name = selector.__name__.lower()
    found = [
        node.path
        for node in nodes
        if getattr(getattr(node.operation, "activation", None), "__name__", None) == name
    ]
    if not found:
        return ""
    verb = "has" if len(found) == 1 else "have"
    return (
        f" {counted(len(found), 'layer')} {verb} activation={name!r}: {listed(found, 3)}. "
        "This selects them: lambda node: "
        f"getattr(node.operation, 'activation', None) is keras.activations.{name}"
    )
