"""`layer.output` and the layers of a result: what Keras users make models of."""

import gc

import keras
import pytest
from donor import equal
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs


def donor(name="input_layer"):
    x = keras.Input((4,), name=name)
    y = layers.Dense(4, name="a")(x)
    y = layers.LayerNormalization(name="ln")(y)
    y = layers.ReLU(name="act")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="donor")


def edited(model):
    return kg.replace(model, "act", layers.Activation("gelu", name="gelu"))


def all_outputs(model):
    """Make the models that a Keras user makes of a model's layers, and compare what they give."""
    x = random_inputs(model, 3)
    for layer in model.layers[1:]:
        probe = keras.Model(model.input, layer.output)
        equal(kg.extract(model, layer.name)(x), probe(x))
        assert layer.output.shape == probe.output.shape
    tail = keras.Model(model.layers[2].output, model.output)
    equal(model(x), tail(keras.Model(model.input, model.layers[2].output)(x)))


@pytest.mark.parametrize("name", ["input_layer", "x"])
def test_results_with_layers_of_their_own(name, tmp_path):
    model = donor(name)
    clone = kg.clone(model)
    result = edited(model)
    result.save(tmp_path / "m.keras")
    for made in (
        clone, kg.build(kg.read(model), weights="copy"), kg.clone(result), kg.clone(edited(clone)),
        keras.saving.load_model(tmp_path / "m.keras"),
    ):  # fmt: skip
        all_outputs(made)


def test_an_edit_of_what_was_made_here_and_is_gone():
    result = edited(kg.clone(donor()))
    again = kg.insert(result, layers.Dropout(0.5, name="drop"), before="ln")
    del result
    gc.collect()
    all_outputs(again)


def test_layers_that_an_edit_put_in():
    model = donor()
    result = edited(model)
    x = random_inputs(model, 3)
    probe = keras.Model(result.input, result.get_layer("gelu").output)
    equal(kg.extract(result, "gelu")(x), probe(x))


@pytest.mark.parametrize("name", ["input_layer", "x"])
@pytest.mark.parametrize("layer", ["a", "ln", "out"])
def test_a_layer_shared_with_the_donor_is_never_taken_for_another(name, layer):
    """It is the donor's, whatever was edited before or behind it."""
    model = donor(name)
    before = model.get_layer(layer).output
    result = edited(model)
    shared = result.get_layer(layer)
    assert shared is model.get_layer(layer) and shared.output is before
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    said = rf"The output of '{layer}' comes from .* another model, .*extract\(model, \"{layer}\"\)"
    said = said if version > (3, 13) else "."  # before, Keras does not ask an input
    with pytest.raises(ValueError, match=said):
        keras.Model(result.input, shared.output)
    x = random_inputs(model, 3)
    kg.extract(result, layer)(x)  # the way out
    equal(model.get_layer("ln")(model.get_layer("a")(x)), kg.extract(result, "ln")(x))
    equal(keras.Model(model.input, before)(x), kg.extract(model, layer)(x))


def test_an_input_that_nothing_needs_is_no_error():
    x, z = keras.Input((4,), name="x"), keras.Input((3,), name="z")
    model = keras.Model([x, z], layers.Dense(2, name="d")(x), name="unused")
    result = kg.clone(model)
    both = keras.Model(result.inputs, result.get_layer("d").output)
    data = random_inputs(model, 3)
    equal(model(data), result(data))
    equal(result(data), both(data))
    outer = [keras.Input((4,), name="x"), keras.Input((3,), name="z")]
    equal(model(data), keras.Model(outer, result(outer))(data))
    other = keras.Input((5,), name="other")
    wide = keras.Model([*result.inputs, other], result.output)
    equal(model(data), wide([*data, keras.ops.ones((3, 5))]))
