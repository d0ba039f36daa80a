"""What a user keeps on a layer as a plain attribute: it follows to the layer that is made again."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import keras
import numpy as np

from keras_graft import advice
from keras_graft.errors import EditError


def carry_attributes(
    old: Any, new: Any, is_copy: bool, sizes: Container[int], path: str, verb: str
) -> None:
    """Give a layer the attributes that a user set on the layer before it.

    An array whose size is one that changes is refused: it may belong to the channels, or not.

    Args:
        old: The layer before.
        new: The layer in its place, built.
        is_copy: Whether it is a copy with all attributes, or the same layer; else it is made from a
            configuration, and has those that its class gives it.
        sizes: The sizes of the axes that change.
        path: The layer's path, for the message.
        verb: The verb, for the message.
    """
    for name, value in list(vars(old).items()):
        if name.startswith("_") or not (is_copy or name not in vars(new)):
            continue
        if isinstance(value, keras.Variable):  # TensorFlow counts it as a tensor
            continue
        if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
            shape = tuple(value.shape)
            if any(size in sizes for size in shape):
                raise EditError(
                    f"{verb}: {path!r} keeps an array of shape {shape} in its attribute {name!r}, which "
                    "is not one of its weights: whether it belongs to the channels that change is not "
                    f"known. Set it after {verb} (del layer.{name} before)"
                    + (f", or leave this part out: {advice.option('keep', path)}." if verb == "prune"
                       else ".")
                )  # fmt: skip
        if not is_copy:
            vars(new)[name] = value
