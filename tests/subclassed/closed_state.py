"""Blocks that act beside the graph: backend functions, state, new layers, fixed noise."""

from __future__ import annotations

import keras
from around import COMPILES, Around, Odd, rows
from case import case, register
from keras import layers, ops


def native_sine(x):
    """A function of the backend, called on a tensor of Keras."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.sin(x)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.sin(x)
    import jax

    return jax.numpy.sin(x)


@register
class Native(Odd):
    def call(self, x, training=None):
        return native_sine(self.dense(x))


@case(rows, (2,), (3,), closed={"odd": ".sin(x)"})
def backend_function():
    return Around(Native(name="odd"), name="around")


@register
class RunningMean(Odd):
    def build(self, shape):
        self.mean = self.add_weight(shape=(4,), initializer="zeros", trainable=False, name="mean")
        super().build(shape)

    def call(self, x, training=None):
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, axis=0))
        return self.dense(x - self.mean)


@case(rows, (2,), (3,), closed={"odd": "self.mean.assign("})
def state_written_in_call():
    return Around(RunningMean(name="odd"), name="around")


@register
class Cached(Odd):
    """One step of a language model: keys so far are in a variable."""

    def build(self, shape):
        self.cache = self.add_weight(
            shape=(4, 4), initializer="zeros", trainable=False, name="cache"
        )
        super().build(shape)

    def call(self, x, training=None):
        key = self.dense(x)
        self.cache.assign(ops.slice_update(ops.convert_to_tensor(self.cache), (0, 0), key[:2]))
        return ops.matmul(ops.softmax(ops.matmul(key, ops.transpose(self.cache))), self.cache)


@case(rows, (2,), (3,), closed={"odd": "self.cache.assign("})
def cache_of_a_language_model():
    return Around(Cached(name="odd"), name="around")


@register
class MakesLayers(Odd):
    def call(self, x, training=None):
        x = layers.Dense(4, kernel_initializer="ones", use_bias=False, name="new")(x)
        return self.dense(x)


@case(rows, (2,), (3,), closed={"odd": "layers.Dense(4"}, compiled=not COMPILES)
def layers_created_in_call():
    return Around(MakesLayers(name="odd"), name="around")


@register
class Regularized(Odd):
    def __init__(self, **kwargs):
        kwargs.setdefault("activity_regularizer", keras.regularizers.L2(0.1))
        super().__init__(**kwargs)

    def call(self, x, training=None):
        return self.dense(x)


@case(rows, (2,), (3,), closed={"odd": "activity"})
def activity_regularizer_on_a_block():
    return Around(Regularized(name="odd"), name="around")


@register
class FixedSeed(Odd):
    def call(self, x, training=None):
        return self.dense(x) + keras.random.normal(ops.shape(x), seed=42)


@case(rows, (2,), (3,), closed={"odd": "seed=42"})
def random_with_a_fixed_seed():
    return Around(FixedSeed(name="odd"), name="around")


@register
class Outer(layers.Layer):
    """Opens, with a part inside that does not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.before, self.inner = layers.Dense(4, name="before"), Native(name="inner")

    def call(self, x, training=None):
        return x + self.inner(self.before(x), training=training)


@case(rows, (2,), (3,), closed={"odd/inner": ".sin(x)"})
def innermost_part_stays_closed():
    return Around(Outer(name="odd"), name="around")


@register
class Tokens(Odd):
    """A dict of Python values and the size of a batch, in a message: no tensor depends on them."""

    def call(self, x, training=None):
        note = {"name": self.name, "rank": len(x.shape)}
        assert note["rank"] == 2 and x.shape[-1] == 4, f"bad input {x.shape}"
        return self.dense(x)


@case(rows, (2,), (3,))
def assertions_about_rank_and_width():
    return Around(Tokens(name="odd"), name="around")
