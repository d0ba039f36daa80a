"""prune of models that were opened, nested, frozen, tied, compiled, edited or loaded before."""

import keras
import numpy as np
import pytest
from donor import unchanged
from keras import layers as L
from zeroed import same, scrambled, without_zeros

import keras_graft as kg
from keras_graft.testing import random_inputs


def cnn(name="m"):
    x = keras.Input((6, 6, 3), name="x")
    h = L.Conv2D(6, 3, padding="same", name="c1")(x)
    h = L.ReLU(name="r1")(L.BatchNormalization(name="b1")(h))
    h = L.Conv2D(6, 3, padding="same", name="c2")(h)
    h = L.Add(name="add")([h, L.Conv2D(6, 1, name="c3")(x)])
    y = L.Dense(3, name="out")(L.GlobalAveragePooling2D(name="gap")(h))
    return scrambled(keras.Model(x, y, name=name))


@keras.saving.register_keras_serializable("prune_edited")
class Block(L.Layer):
    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.up, self.down = L.Dense(units, "relu", name="up"), L.Dense(4, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], self.units))

    def call(self, x):
        return x + self.down(self.up(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def blocks(times=2, shared=True):
    x = keras.Input((3,), name="x")
    h = L.Dense(4, name="in")(x)
    block = Block(name="block")
    for i in range(times):
        h = block(h) if shared else Block(name=f"block{i}")(h)
    return scrambled(keras.Model(x, L.Dense(2, name="out")(h), name="m"))


def nested():
    inner, x, y = cnn("inner"), keras.Input((6, 6, 3), name="x"), keras.Input((6, 6, 3), name="y")
    both = L.Concatenate(name="both")([inner(x), inner(y)])
    return scrambled(keras.Model([x, y], L.Dense(2, name="end")(both), name="outer"))


def tied():
    ids = keras.Input((5,), dtype="int32", name="x")
    h = L.Dense(6, name="mid", activation="relu")(L.Embedding(9, 6, name="words")(ids))
    model = scrambled(keras.Model(ids, L.Dense(9, use_bias=False, name="head")(h), name="m"))
    return kg.tie(model, "head/kernel", "words/embeddings", transform="transpose")


def mixed():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return cnn()
    finally:
        keras.config.set_dtype_policy("float32")


def sequential():
    layers = [L.Conv2D(6, 3, name="a"), L.BatchNormalization(name="b"), L.Flatten(name="flat")]
    ends = [L.Dense(6, "relu", name="c"), L.Dense(2, name="d")]
    return scrambled(keras.Sequential([keras.Input((6, 6, 3)), *layers, *ends], name="row"))


def replaced():
    model = kg.insert(cnn(), L.LeakyReLU(name="leaky"), after="c2")
    new = lambda node: L.Conv2D(6, 5, padding="same", name="c1")  # noqa: E731
    return scrambled(kg.replace(model, "c1", new))


MODELS = {
    "shared block": (blocks, ["block/up", "in"]),
    "blocks": (lambda: blocks(shared=False), ["block1/up", "in"]),
    "nested": (nested, ["inner#0/c1", "inner#1/out"]),
    "tied": (tied, ["words", "mid"]),
    "frozen": (lambda: kg.freeze(cnn(), ["c1", "b1"]), ["c1", "c2"]),
    "sequential": (sequential, ["a", "c"]),
    "replaced": (replaced, ["c1", "c2"]),
    "nest": (lambda: kg.nest(cnn(), "x", "r1", "part"), ["part/c1"]),
    "pruned": (lambda: kg.prune(cnn(), {"c1": 1}), ["c1", "c2"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_channels_that_do_nothing(name, tmp_path):
    make, layers = MODELS[name]
    model = make()
    for layer in layers:
        without_zeros(model, layer)
    scrambled(model)
    with unchanged(model, tmp_path):
        small = kg.prune(model, dict.fromkeys(layers, 0.5))
        assert len(small.trainable_weights) == len(model.trainable_weights)
        x = random_inputs(small, 2)
        y = keras.tree.map_structure(lambda t: np.zeros(t.shape, "float32"), small(x))
        small = kg.clone(small)  # it shares layers that do not change
        small.compile("sgd", "mse")
        small.fit(x, y, verbose=0)
        small.save(tmp_path / "small.keras")
        again = keras.saving.load_model(tmp_path / "small.keras")
        same(small, again, 1e-5)
        assert len(again.weights) == len(small.weights)
        same(kg.prune(again, {layers[0]: 1}), kg.prune(small, {layers[0]: 1}), 1e-5)
        del small, again


def test_mixed_precision_stays():
    model = mixed()
    small = without_zeros(model, "c1", rtol=5e-2)
    assert small.get_layer("c1").compute_dtype == "bfloat16"
    assert small.get_layer("c1").kernel.dtype == "float32"


def test_a_compiled_model_keeps_its_optimizer():
    model = cnn()
    model.compile("adam", "mse")
    x, y = random_inputs(model, 2), np.zeros((2, 3), "float32")
    model.fit(x, y, verbose=0)
    before = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    small = kg.prune(model, {"c1": 0.5})
    assert not small.compiled
    for old, variable in zip(before, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    small.compile("adam", "mse")
    small.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0)


def test_a_call_of_a_shared_block_that_does_something_else():
    """With another flag, its code takes another way: one model cannot do both."""

    class Either(Block):
        def call(self, x, wide=True):
            return x + self.down(self.up(x)) if wide else x + self.down(keras.ops.relu(self.up(x)))

    x = keras.Input((3,), name="x")
    block = Either(name="block")
    h = block(block(L.Dense(4, name="in")(x)), wide=False)
    model = scrambled(keras.Model(x, L.Dense(2, name="out")(h), name="m"))
    with pytest.raises(kg.EditError, match="its code does something else") as error:
        kg.prune(model, {"in": 0.5})
    assert 'kg.inline(model, "block#1")' in str(error.value)
    small = kg.prune(kg.inline(model, "block"), {"in": 0.5})
    assert small.get_layer("in").units == 2


@pytest.mark.once
def test_what_is_closed_is_named():
    """A pattern selects what is open; what is frozen as a whole stops a group."""
    x = keras.Input((3,), name="x")
    model = keras.Model(x, Block(4, name="block")(L.Dense(4, name="in")(x)), name="m")
    with pytest.raises(kg.EditError, match="Of 'block' nothing inside is selected") as error:
        kg.prune(model, {"**": 0.5})
    assert 'prune kg.read(model, open="**"), and build' in str(error.value)
    small = kg.build(kg.prune(kg.read(model, open="**"), {"**": 0.5}))
    assert small.count_params() < model.count_params()
    frozen = kg.freeze(blocks(1), "block")
    with pytest.raises(kg.EditError, match="prune first, then freeze"):
        kg.prune(frozen, {"in": 0.5})
    small = kg.freeze(kg.prune(blocks(1), {"in": 0.5}), "block")
    assert small.get_layer("in").units == 2
