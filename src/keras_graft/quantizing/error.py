"""What quantization changes: the matrix that a layer applies, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_graft import _keras

tree = keras.tree

_ROWS = 1024
"""How many rows of a matrix are compared at once."""


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
        largest: The largest absolute difference.
        mean: The mean absolute difference.
        scale: The largest absolute value before.
    """

    largest: float
    mean: float
    scale: float


def difference(pairs: Iterator[tuple[Any, Any]]) -> Difference:
    """Return how far pairs of arrays (before, after) are apart."""
    largest = total = scale = 0.0
    count = 0
    for before, after in pairs:
        apart = np.abs(before.astype("float64") - after.astype("float64"))
        largest = float(np.maximum(largest, apart.max(initial=0.0)))  # keeps NaN
        scale = float(np.maximum(scale, np.abs(before.astype("float64")).max(initial=0.0)))
        total += float(apart.sum())
        count += apart.size
    return Difference(largest, total / max(1, count), scale)


def weight_error(before: Any, after: Any) -> Difference | None:
    """Return how far the matrices of two layers are apart, as the layers apply them.

    Each layer is called with the rows of an identity matrix, without its bias and activation; an
    embedding with all its numbers. So it is the matrix that the layer computes with, in any mode.

    Args:
        before: A `Dense`, `EinsumDense` or `Embedding`.
        after: The same layer, quantized.
    """
    pair = [_bare(layer) for layer in (before, after)]
    rows = _rows(before)
    if rows is None:
        return None
    count, make = rows

    def parts() -> Iterator[tuple[Any, Any]]:
        for start in range(0, count, _ROWS):
            given = make(start, min(start + _ROWS, count))
            one, other = (as_floats(layer(keras.ops.convert_to_tensor(given))) for layer in pair)
            yield one, other

    return difference(parts())


def as_floats(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def _bare(layer: Any) -> Any:
    """Return the layer without bias and activation, around the same variables."""
    twin = _keras.twin(layer)
    for name in ("bias", "activation"):
        if name in vars(twin):
            vars(twin)[name] = None
    return twin


def _rows(layer: Any) -> tuple[int, Any] | None:
    """Return how many rows the matrix of a layer has, and a function that makes some of them."""
    if isinstance(layer, keras.layers.Embedding):
        return layer.input_dim, lambda start, stop: np.arange(start, stop, dtype="int32")
    if isinstance(layer, keras.layers.Dense):
        kernel: Any = layer.kernel
        size = int(kernel.shape[0])
        return size, lambda start, stop: np.eye(stop - start, size, start, dtype="float32")
    if not isinstance(layer, keras.layers.EinsumDense):
        return None
    return _rows_of_einsum(layer)


def _rows_of_einsum(layer: Any) -> tuple[int, Any] | None:
    inputs, _, rest = layer.equation.replace("...", ".").partition(",")
    kernel, _, output = rest.partition("->")
    if "." in kernel or "." in inputs[1:] or inputs[0] in kernel:
        return None  # the rows go where the batch is
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    reduced = [letter for letter in kernel if letter in inputs and letter not in output]
    size = math.prod(sizes[letter] for letter in reduced)

    def make(start: int, stop: int) -> np.ndarray:
        rows = np.eye(stop - start, size, start, dtype="float32")
        rows = rows.reshape(stop - start, *(sizes[letter] for letter in reduced))
        order = [1 + reduced.index(letter) for letter in inputs[1:] if letter in reduced]
        found = iter(rows.transpose(0, *order).shape[1:])
        shape = [next(found) if letter in reduced else 1 for letter in inputs[1:]]
        whole = [sizes.get(letter, 1) for letter in inputs[1:]]
        rows = rows.transpose(0, *order).reshape(stop - start, *shape)
        return np.broadcast_to(rows, (stop - start, *whole)).copy()

    return size, make
