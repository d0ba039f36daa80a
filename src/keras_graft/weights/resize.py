"""Rules that resize weights to another shape: `kg.transplant(..., resize=...)`.

A rule is called with the values, the wanted shape, and the weight of the target (`.address`,
`.name`, `.layer`, `.read()`). It returns an array of that shape, or None if the rule does not
apply to this weight. The values are None for a weight that the source does not have. Any function
like this is a rule.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.graph.names import is_one_of
from keras_graft.printable import shown
from keras_graft.weights.address import Weight
from keras_graft.weights.channels import RULES, adapted, channel_axis
from keras_graft.weights.layouts import axes_from_torch
from keras_graft.weights.lookups import ids_by_token
from keras_graft.weights.positions import positions
from keras_graft.weights.rule import Rule, Shape, changed_axes

__all__ = [
    "bias", "channels", "classes", "crop_or_pad", "positions", "tokens", "transpose", "vocabulary"
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the rules, for completion."""
    return sorted(__all__)


_NORMS = (keras.layers.BatchNormalization, keras.layers.Normalization)


def channels(rule: Any) -> Rule:
    """Another number of input channels: `"mean"`, `"repeat"`, `"pad"` or a function.

    For the kernels of convolutions and `Dense`, and the statistics of normalizations in front. The
    rules are those of `kg.reinput`.

    >>> import numpy as np, keras_graft as kg
    >>> rule = kg.resize.channels("mean")
    >>> rule
    channels('mean')
    """
    if not callable(rule) and not is_one_of(rule, *RULES):
        raise WeightsError(
            f"resize.channels: {shown(rule)} is not a rule; there are {', '.join(map(repr, RULES))}, or "
            "a function of the kernel and the new number of channels."
        )

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        axis = input_axis(weight)
        if value is None or axis is None or changed_axes(value.shape, shape) != [axis % len(shape)]:
            return None
        if callable(rule) and weight.name != "kernel":
            return None  # a function of the kernel does not say what becomes of statistics
        return adapted(weight.layer, weight.name, value, shape[axis], rule, "transplant")

    return Rule(f"channels({rule!r})", fill)


def vocabulary(keep: Sequence[int | None], new: str = "own") -> Rule:
    """Another vocabulary, given by the old id of each new row.

    For the rows of an embedding, and the axis of the same size of a head, tied or not.

    Args:
        keep: For each new row the old id; None or -1 for a row that has no old one.
        new: What a row without an old one becomes: `"own"`, what the target has; `"mean"` of the
            old rows; `"zeros"`.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.vocabulary([2, 0, None], new="zeros")(
    ...     np.array([[1.0], [2.0], [3.0]]), (3, 1), None).tolist()
    [[3.0], [1.0], [0.0]]
    """
    ids = _ids("vocabulary", keep, new)

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape):
            return None
        changed = changed_axes(value.shape, shape)
        if len(changed) > 1:
            return None
        axis = changed[0] if changed else _vocabulary_axis(weight, shape)
        return _taken(value, shape, weight, ids, axis, new)

    return Rule(f"vocabulary({_short(ids, new)})", fill, exact=_picks(ids, new), knows="ids")


def tokens(old: Any, new: Any, fresh: str = "own") -> Rule:
    """Another vocabulary: each row moves to the new id of its token.

    For the rows of an embedding behind a lookup layer, and of a kernel behind one that counts.

    Args:
        old: The lookup layer (StringLookup, IntegerLookup, TextVectorization) of the source, or its
            tokens in the order of their ids.
        new: The same for the target.
        fresh: What the row of a new token becomes: `"own"`, what the target has; `"mean"` of the
            old rows; `"zeros"`.

    >>> import numpy as np, keras_graft as kg
    >>> rule = kg.resize.tokens(["a", "b", "c"], ["c", "a", "d"], fresh="zeros")
    >>> rule(np.array([[1.0], [2.0], [3.0]]), (3, 1), None).tolist()
    [[3.0], [1.0], [0.0]]
    """
    ids = _ids("tokens", ids_by_token(old, new), fresh)

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        rows = 0 if weight is None or weight.name == "embeddings" else len(shape) - 2
        if value is None or rows < 0 or set(changed_axes(value.shape, shape)) - {rows}:
            return None
        if shape[rows] < len(ids):
            return None
        behind = np.full(shape[rows] - len(ids), -1)  # the table has more rows than tokens
        return _taken(value, shape, weight, np.concatenate([ids, behind]), rows, fresh)

    return Rule(f"tokens({_short(ids, fresh)})", fill, exact=_picks(ids, fresh), knows="ids")


def transpose(axes: Sequence[int] | None = None) -> Rule:
    """Another order of axes: for PyTorch's kernels of Dense layers and convolutions.

    Args:
        axes: The order, as `numpy.transpose` takes it. Without it, the two axes of a matrix are
            swapped, and the channels of a convolution's kernel move from the front to the end.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.transpose()(np.array([[1.0, 2.0, 3.0]]), (3, 1), None).tolist()
    [[1.0], [2.0], [3.0]]
    """
    try:
        order = None if axes is None else tuple(operator.index(axis) for axis in axes)
    except TypeError:
        order = ()
    if order is not None and sorted(order) != list(range(len(order))) or order == ():
        raise WeightsError(f"resize.transpose: axes= must be an order of axes, got {shown(axes)}.")

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        found = order or (weight and axes_from_torch(weight)) or (1, 0)
        if value is None or value.ndim != len(found):
            return None
        made = value.transpose(found)
        return made if made.shape == shape else None

    return Rule(f"transpose({order or ''})", fill, exact=lambda m: m != "int4", knows="axes")


def classes(keep: Sequence[int | None] | None = None, new: str = "own") -> Rule:
    """Another number of classes: the last axis of a head and its bias.

    Args:
        keep: For each new class the old one; None or -1 for a class that has no old one. Without
            `keep` the head stays as the target has it.
        new: What a class without an old one becomes: `"own"`, what the target has; `"mean"` of
            the old ones; `"zeros"`.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.classes([3, 1])(np.arange(4.0), (2,), None).tolist()
    [3.0, 1.0]
    """
    ids = None if keep is None else _ids("classes", keep, new)

    def fill(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape) or not shape:
            return None
        if changed_axes(value.shape, shape) not in ([], [len(shape) - 1]):
            return None
        if ids is None:
            return weight.read()
        return _taken(value, shape, weight, ids, len(shape) - 1, new)

    text = "classes()" if ids is None else f"classes({_short(ids, new)})"
    return Rule(text, fill, exact=lambda m: True if ids is None else _picks(ids, new)(m))


def bias() -> Rule:
    """A bias that only one side has: zeros in the target; a bias of the source is dropped.

    Only in layers whose other weights have a source: a new layer keeps its own bias.

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
    """Keep the first part of each axis that is shorter now; add `fill` at the end of longer ones.

    >>> import numpy as np, keras_graft as kg
    >>> kg.resize.crop_or_pad()(np.ones((2, 3)), (3, 2), None).tolist()
    [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """

    if not isinstance(fill, Real):
        raise WeightsError(f"resize.crop_or_pad: fill= must be a number, got {fill!r}.")

    def resized(value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        if value is None or value.ndim != len(shape):
            return None
        result = np.full(shape, fill, value.dtype)
        both = tuple(slice(min(a, b)) for a, b in zip(value.shape, shape, strict=True))
        result[both] = value[both]
        return result

    return Rule(f"crop_or_pad({fill:g})" if fill else "crop_or_pad()", resized)


def input_axis(weight: Weight) -> int | None:
    """Return the axis of a weight that runs over its layer's input channels."""
    rank = len(weight.shape)
    if isinstance(weight.layer, _NORMS):
        return 0 if rank == 1 else None
    if weight.name != "kernel" or channel_axis(weight.layer, rank) is None:
        return None
    return -1 if "Transpose" in type(weight.layer).__name__ else -2


def _vocabulary_axis(weight: Weight, shape: Shape) -> int:
    # If the number of rows is the same as before, the shape does not show the axis.
    return 0 if weight is None or weight.name == "embeddings" else len(shape) - 1


def _picks(ids: np.ndarray, new: str) -> Callable[[str], bool]:
    """Return a check whether entries are only picked, which is correct for quantized values too.

    Not for int4: several entries are packed in a byte.
    """
    return lambda mode: mode != "int4" and (new == "own" or bool((ids >= 0).all()))


def _ids(rule: str, keep: Sequence[int | None], new: str) -> np.ndarray:
    if not is_one_of(new, "own", "mean", "zeros"):
        raise WeightsError(f'resize.{rule}: new={shown(new)} is none of "own", "mean", "zeros".')
    try:
        keep = keep if isinstance(keep, Mapping) else list(keep)
        ids = [-1 if k is None else operator.index(k) for k in keep]
        wrong = isinstance(keep, Mapping) or any(isinstance(k, bool | np.bool_) for k in keep)
        wrong = wrong or max(ids, default=0) > np.iinfo("int64").max
    except TypeError:
        ids, wrong = [], True
    if wrong or not ids or min(ids) < -1:
        raise WeightsError(
            f"resize.{rule}: keep= must list old ids, and None or -1 for new ones, got "
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
            own = weight.read()  # its dtype may be wider than the source's
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


def _short(ids: np.ndarray, how: str) -> str:
    new = int((ids < 0).sum())
    return f"{len(ids) - new} kept, {new} new" + ("" if how == "own" or not new else f": {how}")
