"""Activations inside layers: computed for each position alone, or over the positions of an axis."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.printable import shown
from keras_graft.pruning.call import Call
from keras_graft.pruning.closure import Axis

NORMALIZING = ("softmax", "log_softmax", "sparsemax")
_ALONE = (
    "relu", "leaky_relu", "relu6", "celu", "elu", "selu", "softplus", "softsign", "squareplus",
    "soft_shrink", "sparse_plus", "silu", "gelu", "tanh", "tanh_shrink", "threshold", "sigmoid",
    "sparse_sigmoid", "exponential", "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink",
    "linear", "mish", "log_sigmoid",
)  # fmt: skip
ALONE = {id(getattr(keras.activations, name, None)) for name in _ALONE} | {id(None)}
"""Functions of Keras that compute each number from one number."""

_OVER = {id(getattr(keras.activations, name, None)): name for name in NORMALIZING}
_GLU = "glu splits the channels into halves: use it as an op behind the layer"


def activated(c: Call) -> None:
    """Say what the activation of a layer does along the axes of its output."""
    function = getattr(c.layer, "activation", None)
    shape = c.shape(c.y)
    for place in range(1, len(shape)):
        along(c, c.axis(c.y, place), function, shape, place)


def along(
    c: Call, axis: Axis | None, function: Any, shape: tuple[int | None, ...], place: int
) -> None:
    """Say what an activation does along an axis.

    A function of Keras is known. Any other is tried: it must give the same for the positions that
    stay, whether others are zero or are not there.

    Args:
        c: The call.
        axis: The axis, in the group.
        function: A function or a layer.
        shape: The shape of what it is called with, with the batch first.
        place: Which axis of this shape it is.
    """
    if axis is None or id(function) in ALONE:
        return
    name = getattr(function, "__name__", type(function).__name__)
    if id(function) in _OVER:
        if place == len(shape) - 1:
            c.note(axis, f"{name} over the channels changes")
    elif function is getattr(keras.activations, "glu", None) or name == "GLU":
        c.stop(axis, _GLU)
    elif isinstance(function, keras.Layer) and function.weights:
        c.stop(axis, f"its activation {shown(function.name)} has weights: use it behind the layer")
    else:
        same = _tried(function, tuple(3 if n is None else n for n in shape), place)
        if same is None:
            c.stop(axis, f"its activation {name} cannot be computed for fewer positions")
        elif not same:
            what = "the channels" if place == len(shape) - 1 else f"axis {place}"
            c.note(axis, f"{name} over {what} changes")


def _tried(function: Any, shape: tuple[int, ...], place: int) -> bool | None:
    """Return whether positions that are zero do nothing to others; None if that cannot be tried."""
    generator = np.random.default_rng(0)
    for scale in (0.1, 1.0, 4.0):
        stay = generator.permutation(shape[place])[: (shape[place] + 1) // 2]
        x = np.zeros(shape, "float32")
        at = (slice(None),) * place + (stay,)
        x[at] = generator.normal(0, scale, x[at].shape)
        whole, part = value_of(function, x), value_of(function, x[at])
        if whole is None or part is None or whole.shape != x.shape or part.shape != x[at].shape:
            return None
        if not np.allclose(whole[at], part, rtol=1e-4, atol=1e-6, equal_nan=True):
            return False
    return True


def value_of(function: Any, *given: np.ndarray, **more: Any) -> np.ndarray | None:
    """Return what a function gives for arrays; None if it raises."""
    try:
        found = function(*map(keras.ops.convert_to_tensor, given), **more)
        return np.asarray(keras.ops.convert_to_numpy(found), "float32")
    except Exception:
        return None
