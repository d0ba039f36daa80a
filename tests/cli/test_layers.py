"""Layers in one word, and selectors as words: nothing is evaluated, and errors name the nearest."""

import json

import keras
import pytest
from keras import layers

from keras_graft_cli.errors import UsageError
from keras_graft_cli.layers import layer_maker
from keras_graft_cli.selectors import boundary, selector, several

pytestmark = pytest.mark.once


@keras.saving.register_keras_serializable("one_word")
class ScaledBy(layers.Layer):
    def __init__(self, factor=0.5, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor


@pytest.mark.parametrize("text, cls, config", [
    ("GELU", layers.Activation, {"activation": "gelu"}),
    ("gelu", layers.Activation, {"activation": "gelu"}),
    ("leaky_relu", layers.Activation, {"activation": "leaky_relu"}),
    ("ReLU", layers.ReLU, {}),
    ("Dropout:0.2", layers.Dropout, {"rate": 0.2}),
    ("Dense:64,activation=relu", layers.Dense, {"units": 64, "activation": "relu"}),
    ("Dense:units=64,use_bias=false,name=d", layers.Dense, {"use_bias": False, "name": "d"}),
    ("Conv2D:8,(3,3),padding=same", layers.Conv2D, {"kernel_size": (3, 3), "padding": "same"}),
    ("Conv2D:8,3,strides=[2, 2]", layers.Conv2D, {"strides": (2, 2)}),
    ("Reshape:(2,)", layers.Reshape, {"target_shape": (2,)}),
    ("Rescaling:1e-2,offset=-1", layers.Rescaling, {"scale": 0.01, "offset": -1}),
    ("Dense:4,name='a,b'", layers.Dense, {"name": "a,b"}),
    ("Dense:4,kernel_regularizer=none", layers.Dense, {"kernel_regularizer": None}),
    ("ScaledBy:0.25", ScaledBy, {}),
])  # fmt: skip
def test_a_layer_in_one_word(text, cls, config):
    make = layer_maker(text)
    made = make()
    assert type(made) is cls and make() is not made
    found = made.get_config()
    assert {key: found[key] for key in config} == config


def test_a_layer_from_the_json_of_keras():
    text = json.dumps(keras.layers.serialize(layers.Dense(3, activation="gelu", name="d")))
    made = layer_maker(text)()
    assert (type(made), made.name, made.units) == (layers.Dense, "d", 3)


@pytest.mark.parametrize("text, words", [
    ("Dropuot:0.2", "Keras has no layer and no activation 'Dropuot'. Nearest: Dropout"),
    ("geluu", "Nearest: gelu"),
    ("Dense:64,activatoin=relu", "Dense has no argument 'activatoin'. Nearest: activation"),
    ("Dense:64,activation=rleu", "cannot be made: Could not interpret"),
    ("Dense", "cannot be made: Dense.__init__() missing 1 required positional argument: 'units'"),
    ("Dense:64,", "a value is missing"),
    ("Conv2D:8,(3,3", "a bracket or a quote is not closed"),
    ("Conv2D:8,3)", "a bracket or a quote is not closed"),
    ("Dense:units=3,relu", "'relu' needs a name"),
    ("Dense:__import__('os')", "cannot be made"),
    ('{"class_name": "Dense"', "JSON cannot be read"),
    ("{}", "has no class_name"),
    ('{"class_name": "ReLU", "module": "os", "config": {}, "registered_name": null}', "cannot be made"),
])  # fmt: skip
def test_what_is_no_layer(text, words):
    with pytest.raises(UsageError) as caught:
        layer_maker(text)
    assert words in str(caught.value)


def test_a_lambda_in_json_does_not_run():
    text = json.dumps(keras.layers.serialize(layers.Lambda(lambda x: x)))
    with pytest.raises(UsageError, match="cannot be made"):
        layer_maker(text)


def test_selectors():
    assert selector("a*") == "a*" and selector("a, b") == ["a", "b"]
    assert selector("class:ReLU") is layers.ReLU
    assert selector("class:ReLU,b") == [layers.ReLU, "b"]
    assert selector("lstm:2") == "lstm:2"
    assert several(["a", "b,c"]) == ["a", ["b", "c"]] and several(["a"]) == "a"
    assert boundary("a,b") == ("a", "b") and boundary("a") == "a"
    with pytest.raises(UsageError, match="Nearest: ReLU"):
        selector("class:ReLUU")
    with pytest.raises(UsageError, match="empty name"):
        boundary("a,,b")
