"""`kg.resize.positions`: resize position embeddings by interpolation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.printable import shown
from keras_graft.weights.address import Weight
from keras_graft.weights.rule import Rule, Shape, changed_axes


def positions(grid: bool | tuple[Shape, Shape] = False, prefix: int | tuple[int, int] = 0) -> Rule:
    """Another number of positions: their embeddings are interpolated linearly.

    As when images are resized, a position stands for the middle of its share of the length. An
    integer table of position numbers stays as the target has it. If the rule is given for all
    weights, it applies to those with `pos` in their address.

    Args:
        grid: True for a square of patches, row by row; for another rectangle, (rows, columns) of
            the source and of the target: ((rows, columns), (rows, columns)).
        prefix: How many first rows are not positions, such as a class token: they are copied as
            they are. (1, 0) if only the source has one, which is left out; (0, 1) if only the
            target has one, which stays as it is.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.positions()(np.array([[0.0], [1.0]]), (4, 1), None).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    before = _both(prefix)
    if before is None or not (isinstance(grid, bool) or _is_rectangles(grid)):
        raise WeightsError(
            "resize.positions: grid= must be True, or ((rows, columns), (rows, columns)) of the "
            "source and the target, and prefix= a number of positions, or one for the source and one for the "
            f"target, got grid={shown(grid)}, prefix={shown(prefix)}."
        )

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or len(changed := changed_axes(value.shape, shape)) > 1:
            return None
        if not changed and before[0] == before[1]:
            return None
        axis = changed[0] if changed else max(len(shape) - 2, 0)
        counts = value.shape[axis] - before[0], shape[axis] - before[1]
        if min(counts) <= 0:
            raise WeightsError(
                f"resize.positions: {weight.address!r} has {value.shape[axis]} positions in the "
                f"source and {shape[axis]} in the target: none are left after prefix={prefix}."
            )
        if not np.issubdtype(value.dtype, np.floating) and value.dtype.kind != "V":
            return weight.read()
        rows = np.moveaxis(value.astype("float64"), axis, 0)
        first, rest = _first(rows, before, axis, weight), rows[before[0] :]
        old, now = _grids(grid, counts, weight) if grid else ((counts[0],), (counts[1],))
        rest = rest.reshape(*old, *rest.shape[1:])
        for i, size in enumerate(now):
            rest = _interpolated(rest, i, size)
        rest = rest.reshape(counts[1], *rest.shape[len(now) :])
        return np.moveaxis(np.concatenate([first, rest]), 0, axis).astype(value.dtype)

    text = f"positions(grid={grid}, prefix={prefix})" if grid or prefix else "positions()"
    return Rule(text, fill, seeks=is_of_positions)


def _both(prefix: Any) -> tuple[int, int] | None:
    """Return how many first rows are not positions, in the source and in the target."""
    given = (prefix, prefix) if isinstance(prefix, Integral) else prefix
    pair = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    whole = [isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0 for n in pair]
    return (int(pair[0]), int(pair[1])) if whole == [True, True] else None


def _first(rows: np.ndarray, before: tuple[int, int], axis: int, weight: Weight) -> np.ndarray:
    """Return the first rows of the target: those of the source, then its own."""
    first = rows[: min(before)]
    if before[1] <= before[0]:
        return first
    own = np.moveaxis(weight.read().astype("float64"), axis, 0)
    return np.concatenate([first, own[len(first) : before[1]]])


def is_of_positions(weight: Weight) -> bool:
    """Whether a weight holds positions, judged by its address."""
    return (
        re.search(r"(?<![a-z])pos(?:ition(?:s|al)?)?(?:_?emb|(?![a-z]))", weight.address)
        is not None
    )


def _is_rectangles(grid: Any) -> bool:
    pairs = [tuple(pair) if isinstance(pair, Sequence) else () for pair in grid] if isinstance(
        grid, Sequence
    ) else []  # fmt: skip
    sizes = [size for pair in pairs for size in pair]
    return [len(pair) for pair in pairs] == [2, 2] and all(
        isinstance(size, Integral) and int(size) > 0 for size in sizes
    )


def _grids(grid: Any, counts: tuple[int, int], weight: Weight) -> tuple[Shape, Shape]:
    sides = [(math.isqrt(n),) * 2 for n in counts]
    grids = (sides[0], sides[1]) if grid is True else (tuple(grid[0]), tuple(grid[1]))
    for (rows, columns), count in zip(grids, counts, strict=True):
        if rows * columns != count:
            raise WeightsError(
                f"resize.positions: {weight.address!r} has {count} positions, which are not a grid "
                f"of {rows} by {columns}. Give prefix= for a class token, prefix=(1, 0) if only the "
                "source has one and prefix=(0, 1) if only the target has one; and grid=((rows, "
                "columns), (rows, columns)) if it is not square."
            )
    return grids


def _interpolated(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    old = values.shape[axis]
    place = np.clip((np.arange(count) + 0.5) * old / count - 0.5, 0, old - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, old - 1)
    part = (place - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
