"""Rules for ops of Keras that move positions: reshape, transpose, join, split, slice."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_graft.graph.node import Template
from keras_graft.pruning.call import Call, Kept
from keras_graft.pruning.layers_plain import broadcast
from keras_graft.pruning.registry import ops
from keras_graft.pruning.reshaped import reshaped


@ops("Reshape")
def reshape(c: Call) -> None:
    reshaped(c, c.x, c.y)
    given = c.layer.newshape
    for i, size in enumerate(given if isinstance(given, list | tuple) else [given]):
        if isinstance(size, int) and size > 0 and c.axis(c.y, i) is not None:
            c.counts(("newshape", i), c.axis(c.y, i))


@ops("Ravel")
def ravel(c: Call) -> None:
    """It mixes the samples of a batch: no rule."""


@ops("Transpose")
def transpose(c: Call) -> None:
    rank = len(c.x.spec.shape)
    axes = c.layer.axes or range(rank)[::-1]
    for i, place in enumerate(axes):
        c.same(c.axis(c.y, i), c.axis(c.x, place))


@ops("Swapaxes")
def swapaxes(c: Call) -> None:
    rank = len(c.x.spec.shape)
    order = list(range(rank))
    one, other = c.layer.axis1 % rank, c.layer.axis2 % rank
    order[one], order[other] = other, one
    for i, place in enumerate(order):
        c.same(c.axis(c.y, i), c.axis(c.x, place))


@ops("Moveaxis")
def moveaxis(c: Call) -> None:
    rank = len(c.x.spec.shape)
    moved = {d % rank: s % rank for s, d in zip(c.layer.source, c.layer.destination, strict=True)}
    rest = iter(i for i in range(rank) if i not in moved.values())
    for i in range(rank):
        c.same(c.axis(c.y, i), c.axis(c.x, moved[i] if i in moved else next(rest)))


@ops("ExpandDims")
def expand_dims(c: Call) -> None:
    rank, axis = len(c.y.spec.shape), c.layer.axis
    new = {a % rank for a in (axis if isinstance(axis, list | tuple) else [axis])}
    for place, i in enumerate(i for i in range(rank) if i not in new):
        c.same(c.axis(c.x, place), c.axis(c.y, i))


@ops("Squeeze")
def squeeze(c: Call) -> None:
    shape, axis = c.x.spec.shape, c.layer.axis
    rank = len(shape)
    given = [i for i, n in enumerate(shape) if n == 1] if axis is None else axis
    gone = {a % rank for a in (given if isinstance(given, list | tuple) else [given])}
    if axis is None:  # another axis may have one position after pruning
        c.changes.append(lambda kept: {("axis",): tuple(sorted(gone))})
    for place, i in enumerate(i for i in range(rank) if i not in gone):
        c.same(c.axis(c.x, i), c.axis(c.y, place))


@ops("BroadcastTo")
def broadcast_to(c: Call) -> None:
    broadcast(c, [c.x], c.y)
    for i, _ in enumerate(c.layer.shape):
        if c.axis(c.y, i) is not None:
            c.counts(("shape", i), c.axis(c.y, i))


@ops("Flip", "Roll")
def along_others(c: Call) -> None:
    axis = c.layer.axis
    if axis is not None:
        c.through(c.x, c.y, leave=axis if isinstance(axis, list | tuple) else [axis])


@ops("Tile")
def tile(c: Call) -> None:
    repeats = c.layer.repeats
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = len(c.y.spec.shape)
    for i in range(1, len(c.x.spec.shape) + 1):
        axis, made = c.axis(c.x, -i), c.axis(c.y, rank - i)
        if axis is not None and made is not None:
            c.link(made, np.arange(made.size), axis, np.arange(made.size) % axis.size)


@ops("Repeat")
def repeat(c: Call) -> None:
    if c.layer.axis is None or not isinstance(c.layer.repeats, int):
        return
    index = c.layer.axis % len(c.x.spec.shape)
    c.through(c.x, c.y, leave=(index,))
    axis, made = c.axis(c.x, index), c.axis(c.y, index)
    if axis is not None and made is not None:
        c.link(made, np.arange(made.size), axis, np.arange(made.size) // c.layer.repeats)


@ops("Pad")
def pad(c: Call) -> None:
    for i, (before, after) in enumerate(c.layer.pad_width):
        if not before and not after:
            c.same(c.axis(c.x, i), c.axis(c.y, i))


@ops("Glu")
def glu(c: Call) -> None:
    index = c.layer.axis % len(c.x.spec.shape)
    c.through(c.x, c.y, leave=(index,))
    axis, made = c.axis(c.x, index), c.axis(c.y, index)
    if axis is not None and made is not None:
        c.link(axis, np.arange(axis.size), made, np.arange(axis.size) % made.size)


@ops("Stack")
def stack(c: Call) -> None:
    new = c.layer.axis % len(c.y.spec.shape)
    for part in c.inputs:
        rest = iter(i for i in range(len(c.y.spec.shape)) if i != new)
        for i, place in enumerate(rest):
            c.same(c.axis(part, i), c.axis(c.y, place))


@ops("Unstack")
def unstack(c: Call) -> None:
    gone = c.layer.axis % len(c.x.spec.shape)
    for out in c.outputs:
        rest = iter(i for i in range(len(c.x.spec.shape)) if i != gone)
        for i, place in enumerate(rest):
            c.same(c.axis(c.x, place), c.axis(out, i))


@ops("Split", "ArraySplit")
def split(c: Call) -> None:
    index = c.layer.axis % len(c.x.spec.shape)
    given, whole, start = c.layer.indices_or_sections, c.axis(c.x, index), 0
    if whole is None:
        return
    parts = [c.axis(out, index) for out in c.outputs]
    for out, part in zip(c.outputs, parts, strict=True):
        c.through(c.x, out, leave=(index,))
        if part is None:
            return
        c.link(part, np.arange(part.size), whole, np.arange(part.size) + start)
        start += part.size

    def cuts(kept: Kept) -> dict[Any, Any]:
        sizes = [len(kept(part)) for part in parts if part is not None]
        if isinstance(given, int) and len(set(sizes)) == 1:
            return {}
        return {("indices_or_sections",): np.cumsum(sizes)[:-1].tolist()}

    c.changes.append(cuts)


@ops("GetItem")
def get_item(c: Call) -> None:
    args, kwargs = c.node.template.args, c.node.template.kwargs
    key: Any = args[1] if len(args) > 1 else kwargs.get("key")
    keys = list(key) if isinstance(key, list | tuple) else [key]
    shape = c.x.spec.shape
    new = [k for k in keys if k is None]
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = next(i for i, k in enumerate(keys) if k is Ellipsis)
    keys[at : at + 1] = [slice(None)] * (len(shape) - (len(keys) - 1 - len(new)))
    if any(not (k is None or isinstance(k, int | slice)) for k in keys):
        return
    taken: dict[int, tuple[Any, np.ndarray, Any]] = {}
    source = made = 0
    for place, k in enumerate(keys):
        if k is None:
            made += 1
            continue
        axis = c.axis(c.x, source)
        if isinstance(k, slice):
            bounds = (k.start, k.stop, k.step)
            if axis is not None and all(b is None or isinstance(b, int) for b in bounds):
                positions = np.arange(axis.size)[k]
                out = c.axis(c.y, made)
                c.link(axis, positions, out, np.arange(len(positions)))
                if len(positions) < axis.size:
                    taken[place] = axis, positions, k
            made += 1
        source += 1

    def template(kept: Kept) -> Any:
        new_keys = list(keys)
        for place, (axis, positions, k) in taken.items():
            stay = kept(axis)
            if len(stay) == axis.size:
                continue
            new = np.flatnonzero(np.isin(stay, positions))
            step = (k.step or 1) if len(new) > 1 and abs(int(new[1] - new[0])) != 1 else 1
            new_keys[place] = slice(int(new[0]), int(new[-1]) + 1, step)
        return Template((*args[:1], tuple(new_keys)), {})

    if taken:
        for axis, _, k in taken.values():
            if (k.step or 1) != 1:
                c.stop(axis, "a slice with steps")
        c.templates.append(template)


@ops("Slice")
def slice_op(c: Call) -> None:
    starts = c.argument(1, "start_indices")
    if not all(isinstance(s, int) for s in np.atleast_1d(starts).tolist()):
        return
    for i in range(len(np.atleast_1d(starts))):
        axis, out = c.axis(c.x, i), c.axis(c.y, i)
        if axis is not None and out is not None and axis.size == out.size:
            c.same(axis, out)
            c.counts(("shape", i), out)


@ops("Take")
def take(c: Call) -> None:
    if c.layer.axis is None:
        return
    index = c.layer.axis % len(c.x.spec.shape)
    more = len(c.y.spec.shape) - len(c.x.spec.shape)
    for i in range(len(c.x.spec.shape)):
        if i != index:
            c.same(c.axis(c.x, i), c.axis(c.y, i + (more if i > index else 0)))
