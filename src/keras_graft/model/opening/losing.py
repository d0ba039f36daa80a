"""Code that adds losses in training, and does the same otherwise: `if training: self.add_loss(...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import deep
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.model.opening.frame import Frame, Place
from keras_graft.model.opening.log import said


def adds_in_training(
    place: Place, plain: Mapping[Place, Frame], trained: Mapping[Place, Frame]
) -> bool:
    """Whether the code of a call does the same in training, and adds losses besides.

    Args:
        place: Where the call is.
        plain: The calls of a run that is not in training, by place.
        trained: Those of a run in training.
    """
    ours, theirs = plain.get(place), trained.get(place)
    if ours is None or theirs is None or ours.losses or not theirs.losses:
        return False
    inside = [f for at, f in (*plain.items(), *trained.items()) if at[: len(place)] == place]
    if any(_flags(f, f.steps) for f in inside if f is not ours and f is not theirs):
        return False  # flags deeper inside could not be told from those that the code sets itself
    if not _keras.takes_training(ours.layer):
        return False
    off, on = (_flags(frame, frame.needed(frame.plain)) for frame in (ours, theirs))
    if any(off) or not all(on):
        return False
    return _form(ours) == _form(theirs)


def _flags(frame: Frame, steps: Sequence[Any]) -> list[bool]:
    """Return the training flags of some calls, where these matter."""
    known = {id(step) for step in steps if not _keras.ignores_training(step.operation)}
    return [bool(flag) for step, flag in frame.training.values() if id(step) in known]


def _form(frame: Frame) -> Any:
    """Return what two runs have in common that compute the same outputs."""
    numbers: dict[int, int] = {}
    for tensor in frame.tensors:
        numbers[id(tensor)] = len(numbers)

    def leaf_said(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor):
            sizes = [None if type(size) is not int else size for size in leaf.shape]
            return "tensor", numbers.get(id(leaf), -1), sizes, leaf.dtype
        return said(leaf)

    found = []
    for step in frame.needed(frame.plain):
        operation = step.operation
        if isinstance(operation, keras.Layer):
            what: Any = id(operation)
        elif isinstance(operation, DynamicOp):
            what = operation.sized.form()
        else:
            attributes = deep(_keras.op_attributes(operation), leaf_said)
            what = type(operation).__name__, attributes
        kwargs = {k: v for k, v in step.arguments.kwargs.items() if k != "training"}
        found.append((what, deep((step.arguments.args, kwargs), leaf_said)))
        for tensor in step.outputs:
            numbers.setdefault(id(tensor), len(numbers))
    return found, [leaf_said(tensor) for tensor in frame.plain]
