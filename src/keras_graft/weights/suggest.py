"""Suggest rules of `kg.resize` for a weight whose source has another shape."""

from __future__ import annotations

import math

from keras_graft.weights.address import Weight
from keras_graft.weights.layouts import axes_from_torch
from keras_graft.weights.positions import is_of_positions
from keras_graft.weights.resize import input_axis
from keras_graft.weights.rule import Shape, changed_axes


def suggestions(shape: Shape | None, weight: Weight) -> list[str]:
    """Return the rules that may fit a weight of the target whose source has this shape.

    Only rules that keep all of the source, or drop only a part that the user names.
    """
    if shape is None:
        return ["bias()"] if weight.name == "bias" or weight.name.endswith("_bias") else []
    mine = weight.shape
    if len(shape) != len(mine):
        return []
    changed, last = changed_axes(shape, mine), len(shape) - 1
    axis = input_axis(weight)
    if axis is not None and changed == [axis % len(shape)]:
        return ['channels("mean")']
    if is_of_positions(weight) and len(changed) == 1:
        return _positions(shape[changed[0]], mine[changed[0]])
    if weight.name == "embeddings" and changed == [0]:
        return ["vocabulary(keep)"]
    if changed == [last]:
        return ["classes(keep)"]
    if sorted(shape) == sorted(mine):
        return turned(shape, weight)
    grows = all(a <= b for a, b in zip(shape, mine, strict=True))
    return ["crop_or_pad()"] if grows else []


def turned(shape: Shape, weight: Weight) -> list[str]:
    """Return the rule that transposes, if PyTorch's order of axes gives the target's shape."""
    axes = axes_from_torch(weight) or ((1, 0) if len(shape) == 2 else ())
    fits = len(axes) == len(shape) and tuple(shape[i] for i in axes) == weight.shape
    return ["transpose()"] if fits else []


def _positions(old: int, new: int) -> list[str]:
    """Return the rules for these numbers of positions: a line, or squares, perhaps with a token."""
    tokens = [(n - 1) > 0 and _is_square(n - 1) for n in (old, new)]
    squares = [_is_square(n) for n in (old, new)]
    if all(tokens):
        return ["positions(grid=True, prefix=1)"]
    if tokens[0] and squares[1]:
        return ["positions(grid=True, prefix=(1, 0))"]
    if squares[0] and tokens[1]:
        return ["positions(grid=True, prefix=(0, 1))"]
    return [*(["positions(grid=True)"] if all(squares) else []), "positions()"]


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count
