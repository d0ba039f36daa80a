"""Calls and tensors of code that runs symbolically, without a trace on any layer."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.nodes import Loose


def loose_node(operation: Any, args: Any, kwargs: Any, outputs: Any, index: int) -> Any:
    """Return a Keras node for a call that is not written to the operation."""
    node = Loose(operation, args, kwargs, [t for t in keras.tree.flatten(outputs) if t is not None])
    for place, tensor in enumerate(node.outputs):
        tensor._keras_history = private.KerasHistory(None, index, place)
    return node


def call_with(node: Any, tensor: Any) -> None:
    """Let a loose node have one tensor as its only argument (`Node.arguments`, 3.12 - 3.15)."""
    node.arguments = private.SymbolicArguments(tensor)


def dtype_of(variable: Any) -> str:
    """Return the dtype of a variable as it is stored (`Variable._dtype`, 3.12 - 3.15)."""
    return keras.backend.standardize_dtype(variable._dtype)


def set_shape(tensor: Any, shape: Any) -> None:
    """Set the shape of a symbolic tensor (`KerasTensor._shape`, 3.12 - 3.15)."""
    tensor._shape = shape


def shuts(layer: Any) -> str | None:
    """Return why Keras does more for a layer than its `call` says, or None.

    Uses `Operation._remat_mode`, `quantization_mode` (3.12 - 3.15).
    """
    if layer.activity_regularizer is not None:
        return "it has an activity regularizer, which works outside of its code"
    if getattr(layer, "quantization_mode", None) is not None:
        return "it is quantized as a whole"
    if getattr(layer, "_remat_mode", None) is not None:
        return "it is computed again for gradients (remat)"
    if type(layer).__call__ is not keras.Layer.__call__:
        return "it overrides `__call__`"
    if isinstance(layer, keras.layers.TimeDistributed | keras.layers.RNN):
        return "it calls its layer once for each step"
    return None


def is_kerass(layer: Any) -> bool:
    """Whether the class of a layer is one of Keras itself."""
    return type(layer).__module__.startswith(("keras.src.", "keras.layers."))


def stand_in(variable: Any, path: str) -> Any:
    """Return a variable with the same value under another path, to be exchanged for the first.

    Uses `Variable._name`, `_path` (3.12 - 3.15).
    """
    new = object.__new__(type(variable))
    for key, value in vars(variable).items():
        if not key.startswith("_self_"):  # TensorFlow's bookkeeping
            new.__dict__[key] = value
    new.__dict__.update(_name=path.rpartition("/")[2], _path=path)
    return new


def ignores_training(layer: Any) -> bool:
    """Whether a layer takes a training flag only for the sake of quantization (3.12 - 3.15)."""
    kinds = keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding
    return is_kerass(layer) and isinstance(layer, kinds)
