"""Small models for what is told of weights: names that mislead, layers in layers."""

from __future__ import annotations

import keras
import pytest
from donor import arrays, equal
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs
from keras_graft.weights.address import groups


@keras.saving.register_keras_serializable("tests")
class Two(layers.Layer):
    """Two layers inside, without names of their own, in an order that the alphabet has not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.second_last, self.last = layers.Dense(4), layers.Dense(4)

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(4,), initializer="random_normal")
        self.second_last.build(shape)
        self.last.build(shape)

    def call(self, x):
        return self.last(keras.ops.relu(self.second_last(x))) * self.scale

    def compute_output_shape(self, shape):
        return shape


def nested():
    """Automatic names at three levels, `d/kernel` twice, statistics, a generator."""
    x = keras.Input((4,))
    inner = keras.Model(
        x, layers.Dropout(0.5)(Two()(layers.Dense(4, name="d")(layers.Dense(4)(x))))
    )
    other = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    x = keras.Input((4,))
    y = layers.BatchNormalization()(layers.Dense(4, name="d")(inner(x)))
    model = keras.Model(x, layers.Dense(2, name="out")(other(y)))
    for weight in model.weights:
        weight.assign(weight + keras.random.uniform(weight.shape, 0.1, 1.0))
    return model


def small(first=4, out=3, name="small", **kwargs):
    x = keras.Input((first,), name="x")
    y = layers.Dense(5, activation="relu", name="hidden", **kwargs)(x)
    return keras.Model(x, layers.Dense(out, name="out")(y), name=name)


def outputs_equal(one, other):
    x = random_inputs(one, 3)
    equal(one(x), other(x))


def values(model):
    return arrays(model.variables)


class Twins(layers.Layer):
    """Two layers inside of one name, in an order that the alphabet has not."""

    def build(self, shape):
        self.z, self.a = layers.Dense(4, name="d"), layers.Dense(4, name="d")
        self.z.build(shape)
        self.a.build(shape)

    def call(self, x):
        return self.a(keras.ops.relu(self.z(x)))


def by_address(model):
    """Return the values of all weights by their addresses."""
    return {w.address: w.read() for w in groups(model).weights()}


def refused(source, target, **kwargs):
    """Return the words of a refusal, which must leave the target as it was."""
    before = values(target)
    with pytest.raises(kg.WeightsError) as caught:
        kg.transplant(source, target, **kwargs)
    equal(before, values(target))
    return str(caught.value)
