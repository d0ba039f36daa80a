"""Handles of one reading of a model, used on the model itself."""

import keras
import numpy as np
import pytest
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


def test_a_class_that_selects_nothing_names_layers_with_that_activation():
    x = keras.Input((4,))
    y = keras.layers.Dense(3, activation="relu", name="d")(x)
    model = keras.Model(x, keras.layers.Activation("relu", name="a")(y))
    with pytest.raises(kg.NothingSelectedError) as told:
        kg.select(model, keras.layers.ReLU)
    words = "2 layers have activation='relu': 'd', 'a'. This selects them: "
    assert words in str(told.value)
    way_out = str(told.value).partition(words)[2]
    assert len(kg.select(model, eval(way_out, {"keras": keras}))) == 2
    with pytest.raises(kg.NothingSelectedError, match="lists its nodes.$"):
        kg.select(model, keras.layers.GRU)
