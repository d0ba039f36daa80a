"""Whether two constants of calls are the same, and a key that tells constants apart."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Value

_WIDE = ("float64", "complex128")


def is_wide(graph: Graph) -> bool:
    """Whether a graph, or a nested model in it, computes in double precision."""
    values = (v for node in graph.nodes for v in (*node.inputs, *node.outputs))
    return any(v.spec is not None and v.spec.dtype in _WIDE for v in values) or any(
        is_wide(node.nested) for node in graph.steps if node.nested is not None
    )


def same_constant(one: Any, other: Any, wide: bool = False) -> bool:
    """Whether two constants are the same.

    Whole numbers are compared as they are; floats as float32 tells them apart, or with `wide` as
    float64 does.
    """
    if isinstance(one, Value) or isinstance(other, Value):
        return False
    if _is_number(one) and _is_number(other):
        if _is_float(one) and _is_float(other):
            return _bits(one, wide) == _bits(other, wide)
        return bool(one == other)
    return comparable(one) == comparable(other)


def comparable(thing: Any) -> Any:
    """Return a constant in a form that compares: lists as tuples, arrays by their values."""
    if isinstance(thing, list | tuple):
        return tuple(map(comparable, thing))
    if isinstance(thing, dict):
        return tuple(sorted((str(k), comparable(v)) for k, v in thing.items()))
    if isinstance(thing, slice):
        return "slice", thing.start, thing.stop, thing.step
    if isinstance(thing, keras.Variable):
        return "variable", id(thing)  # its value may change
    if isinstance(thing, np.ndarray) or hasattr(thing, "__array__"):
        array = np.asarray(keras.ops.convert_to_numpy(thing))
        return keras.backend.standardize_dtype(thing.dtype), array.shape, array.tobytes()
    try:
        hash(thing)
    except TypeError:
        return id(thing)
    return thing


def key_of(thing: Any) -> Any:
    """Return a key that is equal for no two constants that compute something else: 1 is not 1.0.

    Objects count by identity there, so it is one only as long as they are held.
    """
    if isinstance(thing, list | tuple):
        return type(thing), tuple(map(key_of, thing))
    if isinstance(thing, dict):
        return type(thing), tuple((k, key_of(v)) for k, v in thing.items())
    if isinstance(thing, slice):
        return slice, key_of([thing.start, thing.stop, thing.step])
    if isinstance(thing, float | complex):
        return type(thing), repr(thing)  # 0.0 is not -0.0
    return type(thing), comparable(thing)


def _is_number(thing: Any) -> bool:
    return isinstance(thing, int | float | np.number) and not isinstance(thing, bool)


def _is_float(thing: Any) -> bool:
    return isinstance(thing, float | np.floating)


def _bits(number: Any, wide: bool) -> bytes:
    if number != number:
        return b"nan"
    with np.errstate(over="ignore"):
        return np.asarray(number, "float64" if wide else "float32").tobytes()
