"""What the cases of closed blocks share: a model that opens around a block that may not."""

from __future__ import annotations

import keras
from case import floats, register
from keras import layers, ops

COMPILES = keras.backend.backend() != "torch"
"""Whether this backend compiles `predict`: code that looks at values then fails in the donor."""


@register
class Fine(layers.Layer):
    """A block that opens, beside one that does not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def call(self, x):
        return ops.tanh(self.dense(x)) + x


@register
class Around(keras.Model):
    """A block that opens, the one under test, and a head."""

    def __init__(self, block=None, **kwargs):
        super().__init__(**kwargs)
        self.fine = Fine(name="fine")
        self.odd = block
        self.out = layers.Dense(2, name="out")

    def call(self, x, training=None):
        return self.out(self.odd(self.fine(x), training=training))

    def get_config(self):
        return {**super().get_config(), "block": keras.saving.serialize_keras_object(self.odd)}

    @classmethod
    def from_config(cls, config):
        block = keras.saving.deserialize_keras_object(config.pop("block"))
        return cls(block=block, **config)


class Odd(layers.Layer):
    """Holds a layer, so it is a composite; its call is what the case is about."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        super().build(shape)

    def compute_output_shape(self, shape):
        return shape


def rows(n):
    return floats(n, 4)


def steps(n, t):
    return floats(n, t, 4)
