"""How a reshape moves positions: one channel may become many features, or the reverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_graft.pruning.call import Call
from keras_graft.pruning.closure import Axis


def reshaped(c: Call, x: Any, y: Any, order: Sequence[int] | None = None) -> None:
    """Couple the axes of a tensor with those of its reshaped form.

    An axis that others are merged with is repeated: the channels of an image in its features. Of one
    that is split, positions must go in rows, and there are several ways: see `_chosen`.

    Args:
        c: The call.
        x: The value before.
        y: The value after.
        order: The axes of `x` in the order in which its numbers are read; as they are if None.
    """
    order = list(range(len(x.spec.shape))) if order is None else list(order)
    before = [(i, x.spec.shape[i]) for i in order]
    after = list(enumerate(y.spec.shape))

    ends: set[Axis] = set()  # both ends of what is coupled: the way back is the same

    def begin(axis: Axis) -> None:
        for own, (mine, its), other in ((x, (before, after), y), (y, (after, before), x)):
            if axis.holder is own.key:
                place = [c.axis(own, i) for i, _ in mine].index(axis)
                _link(c, axis, place, mine, its, other, ends)

    c.later.append(begin)


def _link(
    c: Call, axis: Axis, place: int, mine: Any, its: Any, other: Any, ends: set[Axis]
) -> None:
    inner = _product(mine[place + 1 :])
    if inner is None:
        return c.stop(axis, "a size behind it varies")
    merged, split = [], []
    for k, (index, size) in enumerate(its):
        step = _product(its[k + 1 :])
        there = c.axis(other, index)
        if step is None or there is None or size == 1:
            continue
        assert size is not None
        if inner % step == 0 and (size * step) % (axis.size * inner) == 0:
            its_of = np.arange(size) * step // inner % axis.size
            merged.append((there, its_of, np.arange(size)))
        elif step % inner == 0 and (axis.size * inner) % (size * step) == 0:
            its_of = np.arange(axis.size) * inner // step % size
            split.append((there, np.arange(axis.size), its_of))
    if axis.size == 1:
        return c.absorb(axis)
    if not merged and not split:
        return c.stop(axis, "the reshape mixes its positions with those of another axis")
    if axis in ends and not merged:
        return None
    there, mine_, its_ = merged[0] if merged else _chosen(split, len(mine) == 2)
    c.link(axis, mine_, there, its_)
    ends |= {axis, there}
    return None


def _chosen(ways: list[Any], whole: bool) -> Any:
    """Return how an axis is split: of (heads, size of a head) the heads, else the channels.

    If the split axis holds all of a sample, it is an image or a sequence, and the last part are its
    channels. Otherwise of two parts the first: the second is what an attention sums over.
    """
    return ways[-1] if whole or len(ways) > 2 else ways[0]


def _product(sizes: Sequence[tuple[int, int | None]]) -> int | None:
    known = [size for _, size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None
