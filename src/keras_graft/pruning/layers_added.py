"""Rules for the layers that this package adds, and for those of keras_hub that hold weights."""

from __future__ import annotations

from keras_graft.layers.weight import KeepWeights, Weight
from keras_graft.pruning.call import Call
from keras_graft.pruning.registry import layers


@layers(Weight)
def weight(c: Call) -> None:
    variable = c.layer.value
    for i in range(len(variable.shape)):
        c.same(c.axis(c.y, i), c.weight(variable, i))
        c.counts(("shape", i), c.axis(c.y, i))
    for i in range(len(c.x.spec.shape)):
        c.absorb(c.axis(c.x, i))  # it only says when the layer is called
    c.source = c.axis(c.y, len(variable.shape) - 1) if variable.shape else None


@layers(KeepWeights)
def keep_weights(c: Call) -> None:
    for value, out in zip(c.inputs, c.outputs, strict=True):
        c.through(value, out)
