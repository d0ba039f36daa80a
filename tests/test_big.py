"""A Keras chain of 3,000 layers is read, split and built."""

import keras
import numpy as np
from keras import layers

import keras_graft as kg
from keras_graft import _keras


def test_a_chain_of_3000_layers():
    x = y = keras.Input((2,), name="x")
    dense = layers.Dense(2, name="dense")
    for i in range(2_999):
        # Keras makes names unique in quadratic time: given ones spare it the search.
        y = dense(y) if i % 100 == 0 else layers.Activation("tanh", name=f"a{i}")(y)
    model = _keras.make_functional(x, y, "long", 3_000)
    trunk, head = kg.split(model, at="a1501")
    assert len(trunk.layers) + len(head.layers) > 2_900
    data = np.ones((1, 2), "float32")
    whole, parts = model(data), head(trunk(data))
    assert np.array_equal(*map(keras.ops.convert_to_numpy, (whole, parts)))
    assert len(kg.cuts(model)) == 2_998
    assert len(kg.read(kg.join(trunk, head))) == 2_999
