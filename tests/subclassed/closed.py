"""Blocks whose call is no graph: branches, loops, sizes. What must stay closed, and why."""

from __future__ import annotations

import keras
import numpy as np
from around import COMPILES, Around, Odd, rows, steps
from case import case, register
from keras import layers, ops


@register
class BranchOnValues(Odd):
    def call(self, x, training=None):
        if ops.mean(x) > 0.5:
            return self.dense(x) * 2
        return self.dense(x)


@case(rows, (2,), (3,), closed={"odd": "mean(x) > 0.5"}, compiled=not COMPILES)
def branch_on_values():
    return Around(BranchOnValues(name="odd"), name="around")


@register
class BranchOnTraining(Odd):
    def call(self, x, training=None):
        x = self.dense(x)
        if training:
            return ops.relu(x) * 2
        return x


@case(rows, (2,), (3,), closed={"odd": "training"})
def branch_on_training():
    return Around(BranchOnTraining(name="odd"), name="around")


@register
class HarmlessBranch(layers.Layer):
    """Looks at the flag, and then does the same: a usual way to write a default."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop = layers.Dense(4), layers.Dropout(0.5, seed=1)

    def call(self, x, training=None):
        if training is None:
            training = False
        return self.drop(self.dense(x), training=training)


# `training=None` becomes False here whatever `fit` says, and Keras's flag is not None there.
@case(rows, (2,), (3,))
def default_of_training_set_by_hand():
    return Around(HarmlessBranch(name="odd"), name="around")


@register
class Unrolled(Odd):
    def call(self, x, training=None):
        state, outputs = ops.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = ops.tanh(self.dense(x[:, t]) + state)
            outputs.append(state)
        return ops.stack(outputs, axis=1)


@case(steps, (2, 3), (3, 5), closed={"odd": "size"})
def loop_over_unknown_length():
    return Around(Unrolled(name="odd"), name="around")


@case(steps, (2, 3), (4, 3))
def loop_over_known_length():
    return Around(Unrolled(name="odd"), name="around")


@register
class BranchOnSize(Odd):
    def call(self, x, training=None):
        x = self.dense(x)
        if ops.shape(x)[1] > 4:
            x = x - ops.mean(x, axis=1, keepdims=True)
        return x


@case(
    steps,
    (2, 3),
    (3, 5),
    closed={"odd": "ops.shape(x)[1] > 4"},
    compiled=keras.backend.backend() != "tensorflow",
    trains=keras.backend.backend() != "tensorflow",
)
def branch_on_an_unknown_size():
    return Around(BranchOnSize(name="odd"), name="around")


@register
class NumpyValues(Odd):
    def call(self, x, training=None):
        scale = np.abs(ops.convert_to_numpy(x)).max()
        return self.dense(x) / float(scale)


@case(rows, (2,), (3,), closed={"odd": "convert_to_numpy(x)"}, compiled=not COMPILES)
def numpy_on_values():
    return Around(NumpyValues(name="odd"), name="around")
