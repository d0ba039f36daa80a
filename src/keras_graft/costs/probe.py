"""What an op does with the batch axis: its shapes are asked for again, with a number in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_graft import _keras
from keras_graft.costs.formula import Formula
from keras_graft.costs.work import Dims
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.model.calls import filled

_LARGE = 1_000_003  # stands for an unknown length: no shape has it as a factor


def probed(node: Node, reads: Sequence[Dims], lost: bool) -> list[tuple[Any, ...]] | None:
    """Return the shapes that a call gives, with None where a length is not told.

    Layers are not asked: they keep the batch axis, but for `Concatenate`.

    Args:
        node: The call.
        reads: The shapes of what it reads.
        lost: Whether a length is not known otherwise: then layers are asked too.
    """
    operation: Any = unwrapped(node.operation)
    if not _tells(operation, lost):
        return None
    names: dict[int, Any] = {}
    tensors, told = [], False
    for value, dims in zip(node.inputs, reads, strict=False):
        spec = value.spec
        if spec is None or spec.sparse or spec.ragged or len(spec.shape) != len(dims):
            return None
        shape = [_asked(*pair, names) for pair in zip(spec.shape, dims, strict=True)]
        told = told or tuple(shape) != spec.shape
        tensors.append(keras.KerasTensor(shape, spec.dtype))
    if not told or len(tensors) != len(node.inputs):
        return None
    try:
        args, kwargs = filled(node.template, tensors)
        given = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    except Exception:  # it does not fit: what is told without the batch is left
        return None
    return [tuple(_told(length, names) for length in each.shape) for each in given]


def _tells(operation: Any, lost: bool) -> bool:
    """Whether an operation computes shapes by itself, without being run."""
    kind = type(operation)
    if isinstance(operation, keras.Layer):
        own = kind.compute_output_shape is not keras.Layer.compute_output_shape
        return own and (lost or kind is layers.Concatenate)
    own = kind.compute_output_spec is not keras.Operation.compute_output_spec
    return own and _keras.op_name(operation) is not None


def _asked(length: int | None, dim: Any, names: dict[int, Any]) -> int | None:
    if length is not None or isinstance(dim, int):
        return length if length is not None else dim
    if not isinstance(dim, Formula):
        return None
    for number, known in names.items():
        if known == dim:
            return number
    names[number := _LARGE + 2 * len(names)] = dim
    return number


def _told(length: int | None, names: dict[int, Any]) -> Any:
    if length is None or length < _LARGE // 2:
        return length
    for number, dim in names.items():
        if length % number == 0:
            return dim * (length // number)
    return None
