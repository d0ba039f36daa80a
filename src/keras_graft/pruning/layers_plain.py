"""Rules for layers without weights: what passes, and what moves positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_graft.pruning.activations import activated
from keras_graft.pruning.call import Call
from keras_graft.pruning.registry import layer_class, layers, ops, rule_for
from keras_graft.pruning.reshaped import reshaped

_L = keras.layers
_all = lambda *names: [layer_class(name) for name in names]  # noqa: E731

ELEMENTWISE = (
    "Activation", "ActivityRegularization", "AlphaDropout", "Dropout", "ELU", "GaussianDropout",
    "GaussianNoise", "Identity", "LeakyReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D",
)  # fmt: skip
BY_CHANNEL = tuple(
    f"{kind}{n}D"
    for n in (1, 2, 3)
    for kind in (
        "MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling", "Cropping",
        "ZeroPadding", "UpSampling", "AdaptiveMaxPooling", "AdaptiveAveragePooling",
    )
)  # fmt: skip


@layers(*_all(*ELEMENTWISE))
def elementwise(c: Call) -> None:
    c.through(c.x, c.y)
    activated(c)
    for index, size in enumerate(getattr(c.layer, "noise_shape", None) or ()):  # of a Dropout
        axis = c.axis(c.y, index)
        if index and axis is not None and axis.size == size:
            c.counts(("noise_shape", index), axis)


@layers(*_all(*BY_CHANNEL))
def by_channel(c: Call) -> None:
    c.same(c.channel(c.x), c.channel(c.y))


@layers(_L.Resizing)
def resizing(c: Call) -> None:
    c.same(c.channel(c.x), c.channel(c.y))


@layers(_L.Rescaling)
def rescaling(c: Call) -> None:
    if np.ndim(c.layer.scale) == 0 and np.ndim(c.layer.offset) == 0:
        c.through(c.x, c.y)


@layers(_L.Softmax)
def softmax(c: Call) -> None:
    c.through(c.x, c.y)
    axes = c.layer.axis if isinstance(c.layer.axis, list | tuple) else [c.layer.axis]
    for index in axes:
        c.note(c.axis(c.y, index), "softmax over the channels changes")


@layers(_L.Masking)
def masking(c: Call) -> None:
    c.through(c.x, c.y)
    c.note(c.axis(c.y, -1), "which steps are masked depends on all channels")


@layers(_L.Permute)
def permute(c: Call) -> None:
    for i, place in enumerate(c.layer.dims):
        c.same(c.axis(c.y, i + 1), c.axis(c.x, place))


@layers(_L.RepeatVector)
def repeat_vector(c: Call) -> None:
    c.same(c.axis(c.x, 1), c.axis(c.y, 2))


@layers(_L.Flatten)
def flatten(c: Call) -> None:
    if getattr(c.layer, "data_format", "") == "channels_first" and len(c.x.spec.shape) > 2:
        # Keras moves the channels behind first: the features are in the same order.
        rank = len(c.x.spec.shape)
        reshaped(c, c.x, c.y, [0, *range(2, rank), 1])
    else:
        reshaped(c, c.x, c.y)


@layers(_L.Reshape)
def reshape(c: Call) -> None:
    reshaped(c, c.x, c.y)
    for i, given in enumerate(c.layer.target_shape):
        if given != -1:
            c.counts(("target_shape", i), c.axis(c.y, i + 1))


@layers(_L.Concatenate)
def concatenate(c: Call) -> None:
    concatenated(c, c.inputs, c.layer.axis)


@ops("Concatenate")
def concatenate_op(c: Call) -> None:
    concatenated(c, c.inputs, c.layer.axis)


def concatenated(c: Call, parts: Any, axis: int) -> None:
    """Couple the axes of parts with those of the concatenation, behind one another."""
    rank = len(c.y.spec.shape)
    start, out = 0, c.axis(c.y, axis)
    if c.constant_shapes():
        return  # where an array is among the parts is not known here
    for part in parts:
        c.through(part, c.y, leave=(axis % rank,))
        own = c.axis(part, axis)
        if own is None or out is None:
            return
        c.link(own, np.arange(own.size), out, np.arange(own.size) + start)
        start += own.size


@layers(*_all("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"))
def merged(c: Call) -> None:
    broadcast(c, c.inputs, c.y)


def broadcast(c: Call, parts: Any, out: Any) -> None:
    """Couple the axes of tensors with those of what they are broadcast to, from the right."""
    rank = len(out.spec.shape)
    for part in parts:
        own = len(part.spec.shape)
        for i in range(own):
            axis, made = c.axis(part, i), c.axis(out, rank - own + i)
            if axis is not None and made is not None and axis.size == made.size:
                c.same(axis, made)
            elif axis is not None and axis.size == 1:
                c.absorb(axis)


@layers(_L.Dot)
def dot(c: Call) -> None:
    axes, (one, other) = c.layer.axes, c.inputs
    axes = (axes, axes) if isinstance(axes, int) else tuple(axes)
    ranks = [len(c.shape(v)) for v in (one, other)]
    used = [a % r for a, r in zip(axes, ranks, strict=True)]
    c.same(c.axis(one, used[0]), c.axis(other, used[1]))
    c.sums(c.axis(one, used[0]), c.axis(other, used[1]), every=c.layer.normalize)
    left = [i for i in range(1, ranks[0]) if i != used[0]]
    right = [i for i in range(1, ranks[1]) if i != used[1]]
    for place, i in enumerate(left):
        c.same(c.axis(c.y, place + 1), c.axis(one, i))
    for place, i in enumerate(right):
        c.same(c.axis(c.y, len(left) + place + 1), c.axis(other, i))


@layers(_L.TimeDistributed)
def time_distributed(c: Call) -> None:
    inner = rule_for(c.layer.layer)
    if inner is not None:
        call = c.within(c.layer.layer, ("layer", "config"), 1)
        inner(call)
        c.source = call.source
        for value in c.inputs[1:] + c.outputs:  # the steps, of a mask too
            c.same(c.axis(c.x, 1), c.axis(value, 1))
