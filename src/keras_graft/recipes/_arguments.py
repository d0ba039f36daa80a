"""What the recipes say of arguments that are wrong."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.printable import shown


def whole(recipe: str, name: str, number: Any) -> int:
    """Return a whole number above 0, or refuse it."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise kg.EditError(f"{recipe}: {name} must be a whole number above 0, got {number!r}.")
    return int(number)


def activation(recipe: str, name: str, given: Any, several: bool = False) -> Any:
    """Return an activation, or refuse it.

    Args:
        recipe: Who asks.
        name: The argument.
        given: A name, a function, or None.
        several: It comes to stand at several places, so a layer's weights would be shared.
    """
    what = f"{recipe}: {name}={shown(given)} is"
    if isinstance(given, type):
        raise kg.EditError(f"{what} a class; give a function, or its name.")
    if several and isinstance(given, keras.Layer) and type(given).build is not keras.Layer.build:
        raise kg.EditError(
            f"{what} a layer with weights, and all places would share them: give a function, or "
            "its name."
        )
    try:
        keras.activations.get(given)
    except (ValueError, TypeError) as error:
        raise kg.EditError(
            f"{what} not an activation. Give the name of one of keras.activations, or a function."
        ) from error
    return given


def in_training(node: kg.Node) -> bool:
    """Whether a call is recorded as one in training, by itself or by a model around it."""
    flag = None
    for call in (*node.scope, node):
        flag = call.flag(flag)
    return bool(flag)
