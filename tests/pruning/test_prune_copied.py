"""Layers that `prune` copies are as those made from their configuration, attribute by attribute."""

import sys

import keras
import numpy as np
import pytest
from keras import layers as L
from zeroed import same, scrambled

import keras_graft as kg
from keras_graft.pruning.copied import COPIED

MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
GIVEN = {
    "Activation": ("relu",), **{f"AveragePooling{r}D": (2,) for r in (1, 2, 3)},
    "AlphaDropout": (0.1,), "Dropout": (0.1,), "GaussianDropout": (0.1,),
    "GaussianNoise": (0.1,), "Dense": (8,), "GroupNormalization": (8,),
    "SpatialDropout1D": (0.1,), "SpatialDropout2D": (0.1,), "SpatialDropout3D": (0.1,),
}  # fmt: skip


def network(cls):
    """Return a network with a layer of a class, named "mid", between two others."""
    name = cls.__name__
    if name == "Embedding":
        x = keras.Input((4,), dtype="int32", name="x")
        return keras.Model(x, L.Dense(2, name="end")(cls(5, 8, name="mid")(x))), "mid"
    rank = next((int(n) for n in "123" if n in name), 2)
    given = GIVEN.get(name, ())
    if "Conv" in name:
        given = (2,) if name.startswith("Depthwise") else (8, 2)
    x = keras.Input((*[6] * rank, 3), name="x")
    first = L.Dense(8, name="first")
    layer = cls(*given, name="mid")
    h = layer([first(x), L.Dense(8, name="other")(x)] if name in MERGES else first(x))
    h = L.Flatten(name="flat")(h)
    return keras.Model(x, L.Dense(2, name="end")(h), name="m"), "first"


def told(value):
    """Return what can be compared of an attribute."""
    if isinstance(value, keras.Variable):
        found = keras.ops.convert_to_numpy(value)
        return (value.name, value.path, value.dtype, value.trainable, found.tolist())
    if isinstance(value, keras.InputSpec):
        return {k: v for k, v in vars(value).items() if k != "name"}
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [told(v) for v in value]
    plain = value is None or isinstance(value, bool | int | float | str | np.ndarray)
    return value if plain else type(value).__name__


LEFT = {  # what Keras sets at the first call, and what knows the rest
    "_called",
    "_parent_path",
    "_inbound_nodes",
    "_outbound_nodes",
    "_tracker",
    "_keras_graft",
    "_auto_config",
}


@pytest.mark.parametrize(
    "cls", sorted(COPIED, key=lambda cls: cls.__name__), ids=lambda c: c.__name__
)
def test_a_copy_is_as_the_layer_made_again(cls, monkeypatch):
    model, source = network(cls)
    scrambled(model)
    once = kg.prune(model, {source: [1, 6]})
    monkeypatch.setattr(sys.modules["keras_graft.pruning.smaller"], "copied", lambda *_: None)
    twice = kg.prune(model, {source: [1, 6]})
    for name in ("mid", "end"):
        ours, theirs = (vars(m.get_layer(name)) for m in (once, twice))
        assert {k for k in ours if k not in LEFT} == {k for k in theirs if k not in LEFT}
        for key in ours.keys() - LEFT:
            one, other = told(ours[key]), told(theirs[key])
            if key == "_tracked":  # the names of attributes that TensorFlow saves; some twice
                one, other = set(one), set(other)
            assert one == other, (name, key)
        assert once.get_layer(name).get_build_config() == twice.get_layer(name).get_build_config()
    same(once, twice, 1e-6)
    shared = once.get_layer("mid") is model.get_layer("mid")
    assert not shared or not (
        model.get_layer("mid").variables or model.get_layer("mid")._build_shapes_dict
    )


def test_a_copy_shares_no_memory():
    """A step of training on the smaller network leaves the donor as it was."""
    model, _ = network(L.BatchNormalization)
    small = kg.prune(model, {"first": [1]})
    before = [keras.ops.convert_to_numpy(w) for w in model.weights]
    small.compile("sgd", "mse")
    small.fit(np.ones((2, 6, 6, 3)), np.zeros((2, 2)), verbose=0)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(weight))


def dense(layer):
    x = keras.Input((5,), name="x")
    h = layer(L.Dense(6, name="first")(x))
    return scrambled(keras.Model(x, L.Dense(2, name="end")(h), name="m"))


@pytest.mark.once
@pytest.mark.parametrize("sizes", [(None, 6), (None, 1)])
def test_the_noise_shape_of_a_dropout_shrinks_too(sizes):
    """Only a step of training would show that it does not fit."""
    model = dense(L.Dropout(0.5, noise_shape=sizes, name="mid"))
    for made, width in ((kg.prune(model, {"first": 2}), 4), (kg.widen(model, {"first": 9}), 9)):
        assert np.shape(made(np.ones((3, 5)), training=True)) == (3, 2)
        want = width if sizes[1] == 6 else 1
        assert tuple(made.get_layer("mid").noise_shape) == (None, want)


@pytest.mark.once
def test_a_call_that_was_set_on_one_layer_is_not_taken_for_its_class():
    layer = L.Dense(6, name="mid")
    model = dense(layer)
    plain = layer.call
    layer.call = lambda inputs, training=None: 2 * plain(inputs)
    for change in (kg.prune, kg.widen):
        with pytest.raises(kg.EditError, match="its call was set on this one layer"):
            change(model, {"first": 8 if change is kg.widen else [1]})


@pytest.mark.once
def test_what_a_user_puts_on_a_layer():
    """Notes stay; a model that the layer knows is not copied with it."""
    layer = L.Dense(6, name="mid")
    model = dense(layer)
    layer.note = "ours"
    small = kg.prune(model, {"mid": [1]})
    assert small.get_layer("mid").note == "ours"
    layer.__dict__["owner"] = model
    small = kg.prune(model, {"mid": [1]})
    assert getattr(small.get_layer("mid"), "owner", model) is model
    assert np.array_equal(
        keras.ops.convert_to_numpy(small.get_layer("mid").kernel),
        np.delete(keras.ops.convert_to_numpy(layer.kernel), 1, 1),
    )


@pytest.mark.once
def test_a_copied_dropout_draws_numbers_of_its_own():
    model = dense(L.Dropout(0.5, seed=3, name="mid"))
    before = keras.ops.convert_to_numpy(model.get_layer("mid").seed_generator.state)
    kg.prune(model, {"first": [1]})(np.ones((3, 5)), training=True)
    after = keras.ops.convert_to_numpy(model.get_layer("mid").seed_generator.state)
    np.testing.assert_array_equal(before, after)
