"""Initializers with numbers of their own: the array in a configuration gets smaller too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

Take = Callable[[Any, np.ndarray], np.ndarray]
"""Returns the part of an array that stays, if its last axes are those of a variable."""


def with_smaller_arrays(config: Any, variables: Sequence[Any], take: Take) -> Any:
    """Return a configuration in which initializers hold arrays for the sizes that stay.

    A layer is built from its configuration, here and from a file, before it gets its values. An
    initializer of another class that holds an array is replaced by zeros.

    Args:
        config: The configuration of a layer.
        variables: The variables of the layer.
        take: Returns what stays of an array.
    """
    if isinstance(config, list | tuple):
        return [with_smaller_arrays(x, variables, take) for x in config]
    if not isinstance(config, dict):
        return config
    found = {}
    for key, given in config.items():
        name = str(key)
        if name.endswith("initializer") and given is not None:
            found[key] = _smaller(name.removesuffix("initializer"), given, variables, take)
        else:
            found[key] = with_smaller_arrays(given, variables, take)
    return found


def holds_arrays(layer: Any) -> bool:
    """Whether an initializer of a layer holds an array."""
    given = [v for name, v in vars(layer).items() if name.endswith("initializer")]
    return any(_is_array(v) for known in given for v in getattr(known, "__dict__", {}).values())


def _smaller(name: str, given: Any, variables: Sequence[Any], take: Take) -> Any:
    try:
        known: Any = keras.initializers.get(given)
    except Exception:
        return given  # making the layer says what is wrong with it
    held = [v for v in getattr(known, "__dict__", {}).values() if _is_array(v)]
    if not held:
        return given
    if type(known) is keras.initializers.Constant:
        array = np.array(keras.ops.convert_to_numpy(known.value))
        fits = [v for v in variables if tuple(v.shape)[-array.ndim :] == array.shape]
        fits.sort(key=lambda v: not v.name.startswith(name.strip("_")))
        if fits:
            small: Any = take(fits[0], array)
            return keras.initializers.serialize(keras.initializers.Constant(small))
    return keras.initializers.serialize(keras.initializers.Zeros())


def _is_array(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(x, float | list | tuple) or hasattr(x, "shape") for x in value)
    return any(n > 1 for n in getattr(value, "shape", ()))
