"""The seeds that the initializers of a layer draw its weights from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_graft._keras.layers import layers_inside


def _initializers(layer: Any) -> Iterator[Any]:
    for inside in layers_inside(layer):
        for value in vars(inside).values():
            if isinstance(value, keras.initializers.Initializer) and hasattr(value, "seed"):
                yield value


def seeds(layer: Any) -> tuple[int, ...]:
    """Return the seeds of a layer that has no weights yet, inner layers too, always in one order.

    Where no seed was given, Keras draws one when the initializer is made, and its configuration
    does not show it. Empty if one of them is no number.
    """
    found = tuple(one.seed for one in _initializers(layer))
    return found if all(type(seed) is int for seed in found) else ()


def set_seeds(layer: Any, given: Sequence[int]) -> bool:
    """Let a layer without weights draw them from these seeds; return whether they fit."""
    found = list(_initializers(layer))
    if len(found) != len(given):
        return False
    for one, seed in zip(found, given, strict=True):
        one.seed = seed
    return True
