"""Create layers again from their configuration, and copy weight values to them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.printable import words_of


def again(operation: Any, name: str, **changes: Any) -> Any:
    """Return a layer of the same configuration with another name, not built and not tied.

    Args:
        operation: A layer or a model.
        name: The name of the new layer.
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


def as_in_a_file(layer: Any) -> Any:
    """Return the layer that the configuration of a layer makes, as a file does; None if it makes none."""
    names = _keras.names_given()
    try:
        twin = again(layer, layer.name)
        if not twin.built:
            twin.build_from_config(layer.get_build_config() or {})
        return twin
    except Exception:
        return None
    finally:
        _keras.take_names_back(names)


def assign(target: Any, source: Any) -> None:
    """Set a variable to a value or to the value of another variable, without sharing memory."""
    # On JAX a training step frees the memory of what it updates: it must not be the donor's.
    target.assign(np.array(keras.ops.convert_to_numpy(source)))


def pair_weights(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Pair the variables of a layer with those of one that was made from its configuration.

    Returns:
        Pairs (old variable, new variable), without variables that the layer does not own.
    """
    tied = {id(tie.source) for tie in _ties.ties_of(old)}
    before, now = list(old.variables), list(new.variables)
    if [(v.name, tuple(v.shape)) for v in before] == [(v.name, tuple(v.shape)) for v in now]:
        pairs = list(zip(before, now, strict=True))
    else:
        names = _ties.named_weights(new)
        pairs = [(v, names[k]) for k, v in _ties.named_weights(old).items() if k in names]
    return [(a, b) for a, b in pairs if id(a) not in tied and tuple(a.shape) == tuple(b.shape)]
