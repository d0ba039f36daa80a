"""Handles of one reading of a model, used on the model itself."""

import keras
import numpy as np
from keras import layers

import keras_graft as kg


def test_a_value_in_the_second_call_of_a_nested_model():
    i = keras.Input((3,), name="i")
    inner = keras.Model(i, layers.Dense(3, name="b")(layers.Dense(3, name="a")(i)), name="inner")
    x = keras.Input((3,), name="x")
    model = keras.Model(x, inner(inner(x)), name="twice")
    data = np.ones((2, 3), "float32")
    nodes = {n.path: n for n in kg.select(model, "inner/a").nodes}
    for path, node in nodes.items():
        by_name, by_handle = kg.extract(model, path)(data), kg.extract(model, node.values[0])(data)
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (by_name, by_handle))), path
