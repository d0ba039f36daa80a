"""Rules for normalizations, and for layers with a number for each channel."""

from __future__ import annotations

import keras

from keras_graft.pruning.call import Call
from keras_graft.pruning.layers_kernel import in_groups
from keras_graft.pruning.registry import layer_class, layers, rule_for

_L = keras.layers


@layers(_L.BatchNormalization)
def batch(c: Call) -> None:
    layer = c.layer
    c.through(c.x, c.y)
    out = c.axis(c.y, layer.axis)
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        c.same(out, c.weight(weight, 0))
    c.source = out


@layers(_L.LayerNormalization, layer_class("RMSNormalization"))
def over_channels(c: Call) -> None:
    layer = c.layer
    c.through(c.x, c.y)
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    weights = [getattr(layer, name, None) for name in ("gamma", "beta", "scale")]
    for place, index in enumerate(axes):
        out = c.axis(c.y, index)
        for weight in weights:
            if hasattr(weight, "shape"):
                c.same(out, c.weight(weight, place))
        c.note(out, "the mean over the channels changes")
        c.note(c.axis(c.x, index), "the mean over the channels changes")
    c.source = c.axis(c.y, axes[-1])


@layers(_L.UnitNormalization)
def unit(c: Call) -> None:
    c.through(c.x, c.y)
    axes = c.layer.axis if isinstance(c.layer.axis, list | tuple) else [c.layer.axis]
    for index in axes:
        c.sums(c.axis(c.x, index), what="norm")


@layers(_L.GroupNormalization)
def grouped(c: Call) -> None:
    layer = c.layer
    c.through(c.x, c.y)
    out = c.axis(c.y, layer.axis)
    for weight in (layer.gamma, layer.beta):
        c.same(out, c.weight(weight, 0))
    in_groups(c, "groups", layer.groups, out)
    for i in range(1, len(c.x.spec.shape)):
        axis = c.axis(c.x, i)
        if c.axis(c.y, i) != out:
            c.note(axis, "the mean over its positions changes")
    c.source = out


@layers(_L.PReLU)
def prelu(c: Call) -> None:
    c.through(c.x, c.y)
    alpha = c.layer.alpha
    for i in range(len(alpha.shape)):
        c.same(c.axis(c.y, i + 1), c.weight(alpha, i))  # of size 1 where it is shared
    last = [i for i, n in enumerate(alpha.shape) if n > 1]
    c.source = c.axis(c.y, last[-1] + 1) if last else None


@layers(_L.SpectralNormalization)
def spectral(c: Call) -> None:
    inner = rule_for(c.layer.layer)
    if inner is None:
        return
    call = c.within(c.layer.layer, ("layer", "config"))
    inner(call)
    c.source = call.source
    kernel = c.layer.kernel
    last = c.weight(kernel, -1)
    c.same(last, c.weight(c.layer.vector_u, 1))
    c.note(last, "in training, the largest singular value of the kernel may change")
