"""The names and arguments with which calls are recorded."""

from __future__ import annotations

import inspect
import re
from typing import Any

import keras

from keras_graft.graph.sizes import Size


def given_values(layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments without those that are None anyway.

    Keras infers the shapes of some layers by a function that does not know all their arguments.
    """
    if not any(value is None for value in kwargs.values()):
        return kwargs
    known = inspect.signature(layer.call).parameters
    return {
        key: value
        for key, value in kwargs.items()
        if value is not None or key not in known or known[key].default is not None
    }


def plain(leaf: Any) -> Any:
    return int(leaf) if isinstance(leaf, Size) else leaf


def plain_name(op: Any) -> str:
    return re.sub(r"_\d+$", "", str(op.name))


def is_code(leaf: Any) -> bool:
    known = isinstance(leaf, type | keras.KerasTensor | keras.Operation)
    return callable(leaf) and not known
