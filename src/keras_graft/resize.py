"""Rules for weights that go over to another shape: `kg.transplant(..., resize=...)`.

A rule is called with the values, the shape that is wanted, and the weight of the target they are
for (`.address`, `.name`, `.layer`, `.read()`), and returns an array of that shape, or None for a
weight that is not its business. The values are None for a weight that the source does not have.
Any such function is a rule.
"""

from __future__ import annotations

import math
import operator
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from keras_graft.addresses import Weight
from keras_graft.channels import RULES, adapted, channel_axis
from keras_graft.errors import WeightsError

Shape = tuple[int, ...]
Fill = Callable[[Any, Shape, Weight], "np.ndarray | None"]

_NORMS = (keras.layers.BatchNormalization, keras.layers.Normalization)


class Rule:
    """A rule with a name that reports print.

    Args:
        text: How it was written.
        fill: What it does.
        drops: Whether a weight of the source, by its name, may stay without a place in the target.
        seeks: Whether a weight is its business if it was given for all, and not for some addresses.
        exact: Whether it is right for what a layer quantized in this mode holds.
        beside: Whether it is only for a weight of whose layer others have a source.
    """

    def __init__(
        self,
        text: str,
        fill: Fill,
        drops: Callable[[str], bool] = lambda name: False,
        seeks: Callable[[Weight], bool] = lambda weight: True,
        exact: Callable[[str], bool] = lambda mode: False,
        beside: bool = False,
    ) -> None:
        self._text = text
        self._fill = fill
        self.drops = drops
        self.seeks = seeks
        self.exact = exact
        self.beside = beside

    def __call__(self, value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        """Return the values in the new shape, or None."""
        return self._fill(value, shape, weight)

    def __repr__(self) -> str:
        return self._text


def channels(rule: Any) -> Rule:
    """Another number of input channels: `"mean"`, `"repeat"`, `"pad"` or a function.

    For the kernels of convolutions and `Dense`, and the statistics of normalizations in front. The
    rules are those of `kg.reinput`.

    >>> import numpy as np, keras_graft as kg
    >>> rule = kg.resize.channels("mean")
    >>> rule
    channels('mean')
    """
    if not callable(rule) and rule not in RULES:
        raise WeightsError(
            f"resize.channels: {rule!r} is no rule; there are {', '.join(map(repr, RULES))}, or a "
            "function of the kernel and the new number of channels."
        )

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        axis = _input_axis(weight)
        if value is None or axis is None or _changed(value.shape, shape) != [axis % len(shape)]:
            return None
        if callable(rule) and weight.name != "kernel":
            return None  # a function of the kernel does not say what becomes of statistics
        return adapted(weight.layer, weight.name, value, shape[axis], rule, "transplant")

    return Rule(f"channels({rule!r})", fill)


def vocabulary(keep: Sequence[int | None], new: str = "own") -> Rule:
    """Another vocabulary: which old row is in which new place.

    For the rows of an embedding, and the axis of the same size of a head, tied or not.

    Args:
        keep: For each new row the old id; None or -1 for a row that was not there.
        new: What such a row becomes: `"own"`, what the target has; `"mean"` of the old rows;
            `"zeros"`.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.vocabulary([2, 0, None], new="zeros")(
    ...     np.array([[1.0], [2.0], [3.0]]), (3, 1), None).tolist()
    [[3.0], [1.0], [0.0]]
    """
    ids = _ids("vocabulary", keep, new)

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape):
            return None
        changed = _changed(value.shape, shape)
        if len(changed) > 1:
            return None
        axis = changed[0] if changed else _vocabulary_axis(weight, shape)
        return _taken(value, shape, weight, ids, axis, new)

    return Rule(f"vocabulary({_short(ids, new)})", fill, exact=_picks(ids, new))


def classes(keep: Sequence[int | None] | None = None, new: str = "own") -> Rule:
    """Another number of classes: the last axis of a head and its bias.

    Args:
        keep: For each new class the old one; None or -1 for a class that was not there. Without it
            the head stays as the target has it.
        new: What such a class becomes: `"own"`, what the target has; `"mean"` of the old ones;
            `"zeros"`.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.classes([3, 1])(np.arange(4.0), (2,), None).tolist()
    [3.0, 1.0]
    """
    ids = None if keep is None else _ids("classes", keep, new)

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape) or not shape:
            return None
        if _changed(value.shape, shape) not in ([], [len(shape) - 1]):
            return None
        if ids is None:
            return weight.read()
        return _taken(value, shape, weight, ids, len(shape) - 1, new)

    text = "classes()" if ids is None else f"classes({_short(ids, new)})"
    return Rule(text, fill, exact=lambda m: True if ids is None else _picks(ids, new)(m))


def positions(grid: bool | tuple[Shape, Shape] = False, prefix: int = 0) -> Rule:
    """Another number of positions: their embeddings are interpolated linearly.

    As images are resized: a position stands for the middle of its share of the length. An integer
    table, of the numbers of the positions, stays as the target has it. Given for all weights, it
    takes those with `pos` in their address.

    Args:
        grid: True for a square of patches, row by row; ((rows, columns) of the source, of the
            target) for another rectangle.
        prefix: How many first positions are none, such as a class token: they go over as they are.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.positions()(np.array([[0.0], [1.0]]), (4, 1), None).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """

    whole = isinstance(prefix, Integral) and not isinstance(prefix, bool) and prefix >= 0
    if not whole or not (isinstance(grid, bool) or _is_rectangles(grid)):
        raise WeightsError(
            "resize.positions: grid= is True, or ((rows, columns), (rows, columns)) of the source and "
            f"the target, and prefix= a number of positions, got grid={grid!r}, prefix={prefix!r}."
        )

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or len(changed := _changed(value.shape, shape)) != 1:
            return None
        if min(value.shape[changed[0]], shape[changed[0]]) <= prefix:
            raise WeightsError(
                f"resize.positions: {weight.address!r} has {value.shape[changed[0]]} positions in the "
                f"source and {shape[changed[0]]} in the target: none are left after prefix={prefix}."
            )
        if not np.issubdtype(value.dtype, np.floating) and value.dtype.kind != "V":
            return weight.read()
        axis = changed[0]
        rows = np.moveaxis(value.astype("float64"), axis, 0)
        count = shape[axis] - prefix
        first, rest = rows[:prefix], rows[prefix:]
        old, now = (len(rest),), (count,)
        if grid:
            old, now = _grids(grid, len(rest), count, weight)
        rest = rest.reshape(*old, *rest.shape[1:])
        for i, size in enumerate(now):
            rest = _interpolated(rest, i, size)
        rest = rest.reshape(count, *rest.shape[len(now) :])
        return np.moveaxis(np.concatenate([first, rest]), 0, axis).astype(value.dtype)

    text = f"positions(grid={grid}, prefix={prefix})" if grid or prefix else "positions()"
    return Rule(text, fill, seeks=_of_positions)


def bias() -> Rule:
    """A bias that only one side has: zeros in the target; one of the source is dropped.

    Of a layer whose other weights have a source: a new layer's bias is its own.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.bias()
    bias()
    """

    def is_bias(name: str) -> bool:
        return name == "bias" or name.endswith("_bias")

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        return np.zeros(shape, "float32") if value is None and is_bias(weight.name) else None

    return Rule("bias()", fill, is_bias, exact=lambda mode: True, beside=True)


def crop_or_pad(fill: float = 0.0) -> Rule:
    """The first part along each axis that is shorter now; `fill` behind it where it is longer.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.crop_or_pad()(np.ones((2, 3)), (3, 2), None).tolist()
    [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """

    if not isinstance(fill, Real):
        raise WeightsError(f"resize.crop_or_pad: fill= is a number, got {fill!r}.")

    def resized(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape):
            return None
        result = np.full(shape, fill, value.dtype)
        both = tuple(slice(min(a, b)) for a, b in zip(value.shape, shape, strict=True))
        result[both] = value[both]
        return result

    return Rule(f"crop_or_pad({fill:g})" if fill else "crop_or_pad()", resized)


def suggestions(shape: Shape | None, weight: Weight) -> list[str]:
    """Return the rules that may fit a weight of the target, whose source has this shape."""
    if shape is None:
        return ["bias()"] if weight.name == "bias" or weight.name.endswith("_bias") else []
    if len(shape) != len(weight.shape):
        return []
    found = []
    changed, last = _changed(shape, weight.shape), len(shape) - 1
    axis = _input_axis(weight)
    if axis is not None and changed == [axis % len(shape)]:
        found.append('channels("mean")')
    elif _of_positions(weight) and len(changed) == 1:
        token = all(
            math.isqrt(n - 1) ** 2 == n - 1 for n in (shape[changed[0]], weight.shape[changed[0]])
        )
        found.append("positions(grid=True, prefix=1)" if token else "positions()")
    elif weight.name == "embeddings" and changed == [0]:
        found.append("vocabulary(keep)")
    elif changed == [last]:
        found.append("classes(keep)")
    return found or ["crop_or_pad()"]


def _changed(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Return the axes that differ; all if there are more or fewer."""
    if len(old) != len(new):
        return list(range(max(len(old), len(new)) + 1))
    return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]


def _input_axis(weight: Weight) -> int | None:
    """Return the axis of a weight that counts its layer's input channels."""
    rank = len(weight.shape)
    if isinstance(weight.layer, _NORMS):
        return 0 if rank == 1 else None
    if weight.name != "kernel" or channel_axis(weight.layer, rank) is None:
        return None
    return -1 if "Transpose" in type(weight.layer).__name__ else -2


def _vocabulary_axis(weight: Weight, shape: Shape) -> int:
    # Of as many rows as before, the shape does not tell.
    return 0 if weight is None or weight.name == "embeddings" else len(shape) - 1


def _of_positions(weight: Weight) -> bool:
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


def _picks(ids: np.ndarray, new: str) -> Callable[[str], bool]:
    """Return whether entries are but picked, and so are right as quantized values too.

    Those of int4 are packed, several in a byte.
    """
    return lambda mode: mode != "int4" and (new == "own" or bool((ids >= 0).all()))


def _ids(rule: str, keep: Sequence[int | None], new: str) -> np.ndarray:
    if new not in ("own", "mean", "zeros"):
        raise WeightsError(f'resize.{rule}: new={new!r} is none of "own", "mean", "zeros".')
    try:
        keep = keep if isinstance(keep, Mapping) else list(keep)
        ids = [-1 if k is None else operator.index(k) for k in keep]
        wrong = isinstance(keep, Mapping) or any(isinstance(k, bool | np.bool_) for k in keep)
        wrong = wrong or max(ids, default=0) > np.iinfo("int64").max
    except TypeError:
        ids, wrong = [], True
    if wrong or not ids or min(ids) < -1:
        raise WeightsError(
            f"resize.{rule}: keep= lists old ids, and None or -1 for new ones, got "
            f"{reprlib.repr(keep)}."
        )
    return np.array(ids, "int64")


def _taken(
    value: np.ndarray, shape: Shape, weight: Weight, ids: np.ndarray, axis: int, new: str
) -> np.ndarray | None:
    if shape[axis] != len(ids) or value.shape[axis] <= ids.max():
        return None
    result = np.take(value, np.maximum(ids, 0), axis)
    fresh = np.nonzero(ids < 0)[0]
    if len(fresh):
        if new == "own":
            own = weight.read()  # perhaps of a wider dtype than the source
            result = result.astype(_wider(result.dtype, own.dtype))
            rows = np.moveaxis(result, axis, 0)
            rows[fresh] = np.moveaxis(own, axis, 0)[fresh]
        else:
            rows = np.moveaxis(result, axis, 0)
            mean = np.moveaxis(value.astype("float64"), axis, 0).mean(0)
            rows[fresh] = mean if new == "mean" else 0
    return result


def _wider(one: Any, other: Any) -> Any:
    try:
        return np.promote_types(one, other)
    except TypeError:  # bfloat16 and float16: neither holds the other
        return np.dtype("float32")


def _grids(grid: Any, old: int, new: int, weight: Weight) -> tuple[Shape, Shape]:
    if grid is not True:
        grids = tuple(grid[0]), tuple(grid[1])
    else:
        grids = tuple((int(round(n**0.5)),) * 2 for n in (old, new))
    for (rows, columns), count in zip(grids, (old, new), strict=True):
        if rows * columns != count:
            raise WeightsError(
                f"resize.positions: {weight.address!r} has {count} positions, which are no grid of "
                f"{rows} by {columns}. Say prefix= for a class token, and grid=((rows, columns), "
                "(rows, columns)) where it is no square."
            )
    return grids  # type: ignore[return-value]


def _interpolated(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    old = values.shape[axis]
    place = np.clip((np.arange(count) + 0.5) * old / count - 0.5, 0, old - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, old - 1)
    part = (place - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part


def _short(ids: np.ndarray, how: str) -> str:
    new = int((ids < 0).sum())
    return f"{len(ids) - new} kept, {new} new" + ("" if how == "own" or not new else f": {how}")
