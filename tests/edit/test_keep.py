"""Trained values that go over to a layer of the same kind, whatever Keras numbered inside it."""

import keras
import numpy as np
from keras import layers

import keras_graft as kg
from keras_graft.testing import assert_same_outputs


class Two(layers.Layer):
    """A layer with two others inside that have no names of their own."""

    def build(self, shape):
        self.first, self.second = layers.Dense(shape[-1]), layers.Dense(shape[-1])
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return self.second(keras.ops.relu(self.first(x)))

    def compute_output_shape(self, shape):
        return shape


def test_layers_inside_are_paired_in_order_not_by_the_numbers_of_keras():
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((4,), name="x")
    layers.Dense(4)  # so that the names inside are dense_1 and dense_2
    model = keras.Model(x, Two(name="two")(x))
    assert [w.path for w in model.weights][::2] == ["two/dense_1/kernel", "two/dense_2/kernel"]
    keras.utils.clear_session(free_memory=False)
    # ... and in the new layer dense and dense_1: by name, the first would go to the second.
    new = kg.replace(model, "two", Two(name="two"), weights="keep")
    assert [w.path for w in new.weights][::2] == ["two/dense/kernel", "two/dense_1/kernel"]
    assert_same_outputs(model, new)
    for old, now in zip(model.weights, new.weights, strict=True):
        assert old is not now and np.array_equal(*map(keras.ops.convert_to_numpy, (old, now)))
    ((_, kept),) = kg.diff(model, new).kept
    assert len(kept.weights) == 4 and kept.dropped == kept.fresh == ()
