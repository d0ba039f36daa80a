"""What two runs of the same code have in common: the entries of a log."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.graph.sizes import Size


def form_of_new(layer: Any) -> Any:
    """Return what two layers made by the same line of code have in common."""
    config = {k: v for k, v in layer.get_config().items() if k != "name"}
    return type(layer).__name__, repr(sorted(config.items(), key=str))


def said(leaf: Any) -> Any:
    """Return what two runs of the same code have in common about an argument that is no tensor."""
    if isinstance(leaf, Size) or leaf is None or isinstance(leaf, bool | int | float | str):
        return "size" if isinstance(leaf, Size) else leaf
    if isinstance(leaf, keras.Variable):
        return id(leaf)
    if keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(keras.ops.convert_to_numpy(leaf))
        return str(array.dtype), array.shape, array.tobytes()
    return type(leaf).__name__
