"""Tensors of the code that depend on no input: each is an op of its own, a `Constant`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.graph.sizes import Doubt, Size, leaves
from keras_graft.layers.constant import Constant
from keras_graft.model.opening.frame import Frame

_MOST = 65_536
"""How many numbers a constant may have: they are in each file."""


def with_constants(flat: list[Any], frame: Frame) -> list[Any]:
    """Return what the code gives, with an op for each tensor that depends on no input."""
    anchor = next((leaf for leaf in flat if isinstance(leaf, keras.KerasTensor)), None)

    def tensor(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor) or not (
            keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray)
        ):
            return leaf
        return _constant(leaf, frame, frame.anchor if anchor is None else anchor, "gives")

    return [tensor(leaf) for leaf in flat]


def sliced(tensor: Any, key: Any, frame: Frame) -> Any:
    """Return a slice of a tensor up to a size that is not known, as a table of positions is cut.

    Returns:
        The slice; NotImplemented if all sizes in it are known.
    """
    if not any(isinstance(leaf, Size) for leaf in leaves(key)):
        return NotImplemented
    make = lambda: _constant(tensor, frame, frame.anchor, "cuts")  # noqa: E731
    return frame.lifted(tensor, make)[key]


def _constant(value: Any, frame: Frame, anchor: Any, does: str) -> Any:
    constant = Constant(value, name="constant")
    if constant.value.size > _MOST:
        raise Doubt(
            f"it {does} a constant of {constant.value.size:,} numbers; a weight "
            "(add_weight(..., trainable=False)) may be as large as you like"
        )
    made = constant.compute_output_spec(None)
    frame.record(constant, (anchor,), {}, made)
    frame.log.append(("constant", frame.said(value)))
    return made
