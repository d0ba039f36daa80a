"""The public assertions: they pass on what is equal, and say what is not."""

import keras
import numpy as np
import pytest
from keras import layers
from models import ALL, residual

import keras_graft as kg
from keras_graft.testing import assert_same_graph, assert_same_outputs, random_inputs


def head(units=2, activation=None, **call):
    x = keras.Input((4,), name="x")
    y = layers.Dropout(0.5, name="drop")(x, **call)
    return keras.Model(x, layers.Dense(units, activation=activation, name="out")(y))


@pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)
def test_a_model_and_its_rebuilding_are_the_same_graph(make):
    keras.utils.clear_session(free_memory=False)
    model = make()
    assert_same_graph(model, kg.build(kg.read(model)), same_layers=True)
    keras.utils.clear_session(free_memory=False)
    assert_same_graph(model, make())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: head(3), r"\+ out: Dense .* -> \(\?, 3\) float32"),
        (lambda: head(activation="relu"), '"activation": "relu"'),
        (lambda: head(training=True), "- drop: Dropout.*'training': "),
        (lambda: residual(), "input image"),
    ],
)
def test_another_graph_is_told_by_what_differs(other, words):
    with pytest.raises(AssertionError, match=words):
        assert_same_graph(head(), other())


def test_copies_are_not_the_same_layers():
    with pytest.raises(AssertionError, match="object"):
        assert_same_graph(head(), head(), same_layers=True)


def test_another_structure_is_another_graph():
    x = keras.Input((4,), name="x")
    y = layers.Dense(2, name="out")(x)
    with pytest.raises(AssertionError, match=r"\+ outputs: \['out'\]"):
        assert_same_graph(keras.Model(x, y), keras.Model(x, [y]))


def test_outputs_that_differ_are_told_by_how_much():
    model = head()
    x = random_inputs(model)
    assert_same_outputs(model, model)
    with pytest.raises(AssertionError, match="the output differs by up to 1"):
        assert_same_outputs(model, lambda x: model(x) + 1.0, x)
    with pytest.raises(
        AssertionError, match="dtype bfloat16 is not float32|float32 is not bfloat16"
    ):
        assert_same_outputs(model, lambda x: keras.ops.cast(model(x), "bfloat16"), x)
    with pytest.raises(AssertionError, match=r"shape \(2, 2\) is not \(2, 3\)"):
        assert_same_outputs(model, head(3), x)
    assert_same_outputs(model, lambda x: model(x) + 1e-6, x, exact=False)


def test_random_inputs_are_what_the_model_takes():
    inputs = {
        "a": keras.Input((None, 3), name="a"),
        "b": keras.Input((2,), dtype="int32", name="b"),
    }
    y = layers.Concatenate()(
        [layers.Flatten()(inputs["b"]), layers.GlobalMaxPooling1D()(inputs["a"])]
    )
    drawn = random_inputs(keras.Model(inputs, y), 5)
    assert np.shape(drawn["a"]) == (5, 8, 3)
    assert keras.backend.standardize_dtype(drawn["b"].dtype) == "int32"
    assert set(np.unique(keras.ops.convert_to_numpy(drawn["b"]))) <= {0, 1}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            lambda x: keras.ops.transpose(x, (0, 2, 1)),
            lambda x: keras.ops.transpose(x, (0, 1, 2)),
            r"\+ transpose: Transpose .*\('axes', \[0, 1, 2\]\)",
        ),
        (
            lambda x: keras.ops.sum(x, axis=1),
            lambda x: keras.ops.sum(x, axis=2),
            r"- sum: Sum .*\('axis', \[1\]\)",
        ),
        (
            lambda x: keras.ops.divide(x, np.full((1, 4), 2.0, "float32")),
            lambda x: keras.ops.divide(x, np.full((1, 4), 3.0, "float32")),
            r"array \(1, 4\) float32 ",
        ),
        (layers.Lambda(lambda x: x * 2, name="l"), layers.Lambda(lambda x: x * 3, name="l"), "3"),
    ],
    ids=["axes", "axis", "constant", "lambda"],
)
def test_an_op_of_other_arguments_is_another_op(one, other, words):
    def of(body):
        keras.utils.clear_session(free_memory=False)
        x = keras.Input((4, 4), name="x")
        return keras.Model(x, body(x))

    assert_same_graph(of(one), of(one))
    with pytest.raises(AssertionError, match=words):
        assert_same_graph(of(one), of(other))
