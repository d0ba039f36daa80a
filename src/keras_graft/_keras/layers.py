"""Keras's private state of layers: the layers inside, and where they keep variables."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft._keras import private


def is_model(operation: Any) -> bool:
    """Whether an operation is a model of known layers: Functional or Sequential (3.12 - 3.15)."""
    return isinstance(operation, (private.Functional, keras.Sequential))


def sublayers(layer: Any) -> list[Any]:
    """Return the layers directly inside a layer (`Layer._layers`, 3.12 - 3.15)."""
    return list(getattr(layer, "_layers", ()))


def layers_inside(layer: Any) -> list[Any]:
    """Return a layer and all layers inside it, outer ones first; files rely on the order."""
    found: dict[int, Any] = {}
    stack = [layer]
    while stack:
        item = stack.pop()
        if id(item) not in found:
            found[id(item)] = item
            stack += sublayers(item)
    return list(found.values())


def own_trained(layer: Any) -> list[Any]:
    """Return a layer's own weights that its flag applies to, without those of layers inside.

    Statistics and states are not among them. Uses `Layer._trainable_variables` (3.12 - 3.15).
    """
    return list(getattr(layer, "_trainable_variables", ()))


def set_flag(layer: Any, value: bool) -> None:
    """Set a layer's own flag `trainable`, not those of its variables and of the layers inside.

    Uses `Layer._trainable` (3.12 - 3.15): the public setter passes the flag on.
    """
    layer._trainable = value


def tracked(layer: Any) -> list[list[Any]]:
    """Return the lists in which a layer keeps what it tracks (`Layer._tracker`, 3.12 - 3.15)."""
    return [store for _, store in layer._tracker.config.values()]


def put_in_place_of(layer: Any, old: Any, new: Any) -> bool:
    """Track a new variable in place of an old one; return whether the old one was tracked.

    Uses `Layer._tracker` with `config` and `stored_ids` (3.12 - 3.15).
    """
    found = False
    tracker = layer._tracker
    for name, (_, store) in tracker.config.items():
        for place, item in enumerate(store):
            if item is old:
                found = True
                store[place] = new
                tracker.stored_ids[name] = (tracker.stored_ids[name] - {id(old)}) | {id(new)}
    return found
