"""Keras's private state of layers: the layers inside, and where they keep variables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

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


def use_instead(layer: Any, old: Sequence[Any], new: Any) -> None:
    """Let the attributes of a layer hold a new variable where they hold one of the old ones.

    What the layer tracks stays (`Layer._tracker`, 3.12 - 3.15).
    """
    stores = set(map(id, tracked(layer)))

    def is_old(item: Any) -> bool:
        return any(item is one for one in old)

    for name, value in list(vars(layer).items()):
        if is_old(value):
            layer.__dict__[name] = new
        elif isinstance(value, list) and id(value) not in stores:
            for place, item in enumerate(value):
                if is_old(item):
                    list.__setitem__(value, place, new)
        elif isinstance(value, dict):
            for key, item in list(value.items()):
                if is_old(item):
                    dict.__setitem__(value, key, new)


def trained_weights(layer: Any) -> list[Any]:
    """Return the weights of a layer itself that it was made to train, frozen or not.

    Uses `Layer._trainable_variables` (3.12 - 3.16).
    """
    return list(layer._trainable_variables)


def track(layer: Any, variable: Any) -> None:
    """Track one more variable as a weight of a built layer (`Layer._tracker`, 3.12 - 3.16)."""
    store = "trainable_variables" if variable.trainable else "non_trainable_variables"
    layer._tracker.config[store][1].append(variable)
    layer._tracker.stored_ids[store].add(id(variable))


def untrack(layer: Any, variables: Iterable[Any]) -> None:
    """Track variables no longer (`Layer._tracker`, 3.12 - 3.16)."""
    gone = set(map(id, variables))
    for name, (_, store) in layer._tracker.config.items():
        store[:] = [item for item in store if id(item) not in gone]
        layer._tracker.stored_ids[name] -= gone


@contextlib.contextmanager
def untracked(layer: Any, variables: Sequence[Any]) -> Iterator[None]:
    """Track some weights of a layer not meanwhile: Keras saves what a layer tracks, in order."""
    untrack(layer, variables)
    try:
        yield
    finally:
        for variable in variables:
            track(layer, variable)


def values_of(variable: Any) -> np.ndarray:
    """Return the values of a variable to read: where the backend allows it, not a copy.

    `ops.convert_to_numpy` copies on JAX and PyTorch.
    """
    value = variable.value
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError):  # on PyTorch: a dtype that NumPy lacks, another device
        return np.asarray(keras.ops.convert_to_numpy(variable))


def built_for(layer: Any) -> dict[str, Any]:
    """Return the arguments that a layer was built with, by name; none if it is not built.

    Uses `Layer._build_shapes_dict` (3.12 - 3.15).
    """
    return dict(layer._build_shapes_dict or {})


def set_built_for(layer: Any, shapes: Mapping[str, Any]) -> None:
    """Say for which shapes a layer is built: they are saved with it.

    Uses `Layer._build_shapes_dict` (3.12 - 3.15).
    """
    layer._build_shapes_dict = dict(shapes)


def flag_of(layer: Any) -> bool:
    """Return the flag `trainable` of a layer itself (`Layer._trainable`, 3.12 - 3.16)."""
    return layer._trainable


def projections(attention: Any) -> dict[str, Any]:
    """Return the projections of an attention with heads, None for one that it does not have.

    Uses `_query_dense`, `_key_dense`, `_value_dense`, `_gate_dense`, `_output_dense` of
    `MultiHeadAttention` and `GroupQueryAttention` (3.12 - 3.15).
    """
    names = ("query", "key", "value", "gate", "output")
    return {name: getattr(attention, f"_{name}_dense", None) for name in names}
