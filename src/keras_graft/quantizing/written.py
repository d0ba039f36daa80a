"""The configurations of layers that hold quantized layers: a file must make them again so."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.model.recreate import as_in_a_file

Modes = list[str | None]


def written(layer: Any) -> list[Any]:
    """Let the configuration of a layer say how the layers inside it are quantized.

    Where it does not say so already, it gets a `DTypePolicyMap`, which many layers hand on to the
    layers that they make: Keras's own, and those of keras_hub.

    Args:
        layer: A layer that a model calls, and no other model.

    Returns:
        The layers inside that it makes in another way all the same.
    """
    inside = _keras.layers_inside(layer)
    modes = [_mode(one) for one in inside]
    if not any(modes[1:]):
        return []
    twin = _twin(layer)
    if twin is not None and list(map(_mode, twin)) == modes:
        return []
    before = vars(layer)["_dtype_policy"]
    paths = [one.path for one in inside]
    options = [paths]
    if twin is not None and len(twin) == len(inside):
        options.append([one.path for one in twin])  # in the file it may lie elsewhere
    for names in dict.fromkeys(map(tuple, options)):
        pairs = zip(names[1:], inside[1:], modes[1:], strict=True)
        _keras.set_policies_inside(
            layer, {path: _keras.policy_of(one) for path, one, mode in pairs if mode is not None}
        )
        twin = _twin(layer)
        if twin is not None and list(map(_mode, twin)) == modes:
            return []
    vars(layer)["_dtype_policy"] = before
    return [one for one, mode in zip(inside, modes, strict=True) if mode is not None]


def _mode(layer: Any) -> str | None:
    if not isinstance(layer, keras.Layer):
        return None
    return getattr(_keras.policy_of(layer), "quantization_mode", None)


def _twin(layer: Any) -> list[Any] | None:
    twin = as_in_a_file(layer)
    return None if twin is None else _keras.layers_inside(twin)
