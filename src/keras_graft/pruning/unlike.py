"""Which calls must be tried: of those that compute the same, one is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.node import Node, Slot


def unlike(nodes: Sequence[Node]) -> list[Node]:
    """Return the calls that must run to know that all of them run.

    Of calls of Keras's own layers with one configuration, weights of the same shapes and inputs of
    the same specs, the first is enough. A layer that changes each number alone needs no trial.
    """
    found: dict[Any, Node] = {}
    for node in nodes:
        if not _is_trusted(node):
            found.setdefault(_what(node) or node.key, node)
    return list(found.values())


def _is_trusted(node: Node) -> bool:
    layer = node.operation
    if not isinstance(layer, keras.Layer) or layer.variables or not _keras.is_elementwise(layer):
        return False
    if not getattr(getattr(layer, "activation", None), "__module__", "keras.").startswith("keras."):
        return False
    (spec, *others) = {v.spec for v in (*node.inputs, *node.outputs)}
    return not others and spec is not None and "float" in spec.dtype


def _what(node: Node) -> Any:
    """Return what a call computes; None if that is not sure."""
    layer = node.operation
    if not isinstance(layer, keras.Layer) or not _keras.is_kerass(layer):
        return None
    if node.nested is not None or _keras.sublayers(layer):
        return None
    if node.hidden or any(v.mask is not None for v in node.inputs):
        return None
    config = {k: v for k, v in _keras.get_config(layer).items() if k != "name"}
    if not _is_text((node.template.args, node.template.kwargs, config)):
        return None
    weights = [(tuple(v.shape), v.dtype) for v in layer.variables]
    return (
        type(layer), repr(node.template), repr(config), repr(weights),
        tuple(v.spec for v in node.inputs), tuple(v.spec for v in node.outputs),
    )  # fmt: skip


def _is_text(structure: Any) -> bool:
    """Whether the text of a structure tells all of it: that of an array does not tell its shape."""
    if isinstance(structure, Mapping):
        return all(map(_is_text, structure.values()))
    if isinstance(structure, list | tuple) and not isinstance(structure, Slot):
        return all(map(_is_text, structure))
    return structure is None or isinstance(structure, bool | int | float | str | Slot)
