"""The data of a run, compared with what a model takes before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_graft.errors import RunError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.printable import quoted, shown
from keras_graft.tables import counted

tree = keras.tree


def checked(model: Any, graph: Graph, x: Any, verb: str) -> Any:
    """Return data as arrays and tensors; refuse data that a model does not take.

    A last axis of size 1 may be missing or additional, as for every Keras model.

    Args:
        model: The model.
        graph: The graph that it was built from.
        x: The data.
        verb: For messages.

    Raises:
        RunError: With the input, the shape that it takes, and the shape that was found.
    """
    try:
        x = tree.map_structure(lambda leaf: _array(leaf, verb), x)
    except RunError:
        raise
    except Exception as error:  # a structure that Keras cannot walk
        raise RunError(
            f"{verb}: {shown(x)} is no data: give an array, or a list or dict."
        ) from error
    optional = {value.name for value in graph.inputs if value.optional}
    for name, taken, given in _pairs(model, x, verb):
        if given is None:
            if taken.name in optional:
                continue
            raise RunError(f"{verb}: the input {quoted(name)} of {model.name!r} is None in x.")
        if not _fits(tuple(taken.shape), tuple(given.shape)):
            one = _fits(tuple(taken.shape), (1, *given.shape))
            raise RunError(
                f"{verb}: the input {quoted(name)} of {model.name!r} takes {_said(taken.shape)}, and "
                f"x has the shape {_said(given.shape)}."
                + (" This is one sample: give x[None]." if one else "")
            )
    return x


def as_tensors(x: Any) -> Any:
    """Return arrays as tensors of the backend."""
    return tree.map_structure(
        lambda leaf: None if leaf is None else keras.ops.convert_to_tensor(leaf), x
    )


def _array(leaf: Any, verb: str) -> Any:
    if leaf is None or (keras.ops.is_tensor(leaf) and not isinstance(leaf, keras.KerasTensor)):
        return leaf
    array = leaf if isinstance(leaf, np.ndarray) else None
    if array is None and hasattr(leaf, "__array__") and not isinstance(leaf, keras.KerasTensor):
        array = np.asarray(leaf)
    if array is None or array.dtype.kind in "OmMc" or not array.ndim:
        raise RunError(
            f"{verb}: {shown(leaf)} is no array of samples: give np.asarray(x), the batch first."
        )
    return array


def _pairs(model: Any, x: Any, verb: str) -> list[tuple[str, Any, Any]]:
    """Return name, tensor and array of each input."""
    takes, leaves = model.inputs, tree.flatten(x)
    names = [tensor.name for tensor in takes]
    if isinstance(x, Mapping):
        own = model.input
        wanted = own if isinstance(own, Mapping) else dict(zip(names, takes, strict=True))
        missing = [str(name) for name in wanted if name not in x]
        if missing:
            raise RunError(
                f"{verb}: {model.name!r} takes {listed(map(str, wanted))}, and x has "
                f"{listed(map(str, x))}: {listed(missing)} is missing."
            )
        found = [(str(name), wanted[name], x[name]) for name in wanted]
        if any(tree.is_nested(part) for each in found for part in each[1:]):
            return []  # a deeper structure: Keras compares it
    elif len(leaves) != len(takes):
        way = "one array" if len(takes) == 1 else f"a list or a dict of {len(takes)} arrays"
        raise RunError(
            f"{verb}: {model.name!r} takes {counted(len(takes), 'input')}, {listed(names)}, and x "
            f"has {len(leaves)}. Give {way}."
        )
    else:
        found = list(zip(names, takes, leaves, strict=True))
    return found


def _fits(taken: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
    if len(given) == len(taken) + 1 and given[-1] == 1:
        given = given[:-1]
    elif len(given) == len(taken) - 1 and taken[-1] == 1:
        given = (*given, 1)
    return len(given) == len(taken) and all(
        a is None or b is None or a == b for a, b in zip(taken, given, strict=True)
    )


def _said(shape: Any) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in shape)})"
