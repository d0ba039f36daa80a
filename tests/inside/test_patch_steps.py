"""`patch` as a step: written, saved in a file, and replayed."""

import json

import keras
import numpy as np
import pytest
from donor import equal
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs


@keras.saving.register_keras_serializable("inside")
def pushed(x, given):
    return x + 2.0 * given


def model(seed=0):
    keras.utils.set_random_seed(seed)
    keras.utils.clear_session()
    inner = keras.Input((4,), name="inner")
    enc = keras.Model(inner, layers.Dense(4, name="p")(inner), name="enc")
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="b")(enc(layers.Dense(4, name="a")(x)))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="m")


GIVEN = {
    "number": {"a": 0},
    "float": {"a": 0.5, "b": 1},
    "array": {"a": np.arange(4.0)},
    "inside": {"enc/p": np.ones((1, 4), "float32")},
    "function": {"a": keras.ops.relu},
    "layer": {"a": layers.Dense(4, name="new")},
    "input": {"enc/p": kg.Given("given")},
    "input of a shape": {"a": kg.Given("given", pushed, (1,), "float16")},
    "several": {("a", "b"): 0},
    "class": {layers.Dense: 0},
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_patch_is_replayed(case, tmp_path):
    one, other = model(0), model(1)
    patched = kg.patch(one, GIVEN[case])
    (step,) = kg.steps(patched)
    assert step["verb"] == "patch" and json.loads(json.dumps(step)) == step
    patched.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert list(kg.steps(loaded)) == [step]
    again = kg.replay(one, kg.steps(patched))
    x = random_inputs(patched, 3)
    equal(patched(x), again(x))
    equal(patched(x), loaded(x))
    replayed = kg.replay(other, kg.steps(loaded))
    assert [layer.name for layer in replayed.layers] == [layer.name for layer in patched.layers]
    assert [t.name for t in replayed.inputs] == [t.name for t in patched.inputs]


@pytest.mark.once
def test_what_is_not_in_the_steps_is_named():
    one = model()
    large = kg.patch(one, {"a": np.zeros((2000, 4))})
    with pytest.raises(
        kg.EditError, match=r"values= is an array of 8,000 numbers', which is not in"
    ):
        kg.replay(one, kg.steps(large))
    odd = kg.patch(one, {"a": lambda x: x * 2})
    with pytest.raises(kg.EditError, match=r"the Python function '<lambda>'"):
        kg.replay(one, kg.steps(odd))
    endless = kg.patch(one, {"a": float("inf")})
    with pytest.raises(kg.EditError, match="numbers that are not finite"):
        kg.replay(one, kg.steps(endless))
    asked = kg.patch(one, {"a": kg.Given("g", lambda x, g: x)})
    with pytest.raises(kg.EditError, match=r"the Python function '<lambda>'"):
        kg.replay(one, kg.steps(asked))


@pytest.mark.once
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": {"array": [[1, 2], [3]]}}, "array= is nested lists of one shape"),
        ({"a": {"array": ["x"]}}, "replaces no value"),
        ({"a": {"as_input": "x"}}, "has 'x' already"),
        ({"a": {"as_input": "g", "odd": 1}}, "'odd' is not known"),
        ({"a": {"as_input": "g", "function": 3}}, "a function is the name of one; got 3"),
        ({"a": {"as_input": "g", "function": "os.system"}}, "there is no function 'os.system'"),
        ({"a": {"as_input": "g", "shape": "no"}}, "give the shape of one sample"),
        ({"a": {"as_input": "g", "dtype": "no"}}, "no dtype of Keras"),
        ({"a": {"as_input": "g", "dtype": 3}}, "no dtype of Keras"),
    ],
)
def test_a_step_of_a_file_is_refused_in_words(values, words):
    steps = [{"verb": "patch", "arguments": {"values": values}}]
    with pytest.raises(kg.EditError, match=words):
        kg.replay(model(), steps)
