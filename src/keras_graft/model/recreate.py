"""Layers made again from their configuration, and values that are copied to them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.printable import words_of


def again(operation: Any, name: str, **changes: Any) -> Any:
    """Return a layer of the same configuration under another name, not built yet, and not tied.

    Args:
        operation: A layer or a model.
        name: The name of the new one.
        changes: Entries of the configuration that differ.
    """
    try:
        cls, config = _ties.plain_config(operation)
        return cls.from_config({**config, **changes, "name": name})
    except Exception as error:
        raise EditError(
            f"{type(operation).__name__} {operation.name!r} cannot be made again from its "
            f"configuration, as a copy of it needs: {words_of(error)}"
        ) from error


def assign(target: Any, source: Any) -> None:
    """Set a variable to a value or to that of another variable, and share no memory with it."""
    # On JAX a training step gives away the memory of what it updates, so never the donor's.
    target.assign(np.array(keras.ops.convert_to_numpy(source)))


def pair_weights(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Pair the variables of a layer with those of one that was made from its configuration.

    Returns:
        Pairs (old variable, new variable); those that the layer does not own are left out.
    """
    tied = {id(tie.source) for tie in _ties.ties_of(old)}
    before, now = list(old.variables), list(new.variables)
    if [(v.name, tuple(v.shape)) for v in before] == [(v.name, tuple(v.shape)) for v in now]:
        pairs = list(zip(before, now, strict=True))
    else:
        names = _ties.named_weights(new)
        pairs = [(v, names[k]) for k, v in _ties.named_weights(old).items() if k in names]
    return [(a, b) for a, b in pairs if id(a) not in tied and tuple(a.shape) == tuple(b.shape)]
