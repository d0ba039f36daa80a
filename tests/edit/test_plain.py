"""plain: Keras's own layers only, in a process without keras_graft; or a refusal by name."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from donor import equal, unchanged
from keras import layers, ops

import keras_graft as kg


def made():
    x = keras.Input((4,), name="x")
    h = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(x))
    return keras.Model(
        x, layers.Dense(3, name="e")(layers.LSTM(4, name="lstm")(ops.expand_dims(h, 1)))
    )


@keras.saving.register_keras_serializable("plain")
class Gate(layers.Layer):
    """A layer with code of its own, and a weight that it uses itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="random_normal", name="scale")

    def call(self, x):
        return x + self.scale * self.dense(x) ** 2


@keras.saving.register_keras_serializable("plain")
class Own(keras.Model):
    """A model with a class of its own."""


def with_code():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(Gate(name="b")(Gate(name="a")(x))))


def with_class():
    x = keras.Input((4,), name="x")
    return Own(x, layers.Dense(2, name="out")(x))


def nested_class():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.ReLU(name="r")(with_class()(x)))


def same_names():
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    one = keras.Model(x, layers.Dense(4, name="same")(x))
    return kg.join(one, keras.Model(y, layers.Dense(4, name="same")(y)))


def tied():
    ids = keras.Input((5,), name="ids", dtype="int32")
    h = layers.Dense(8, name="d")(layers.Embedding(11, 8, name="tokens")(ids))
    model = keras.Model(ids, layers.Dense(11, name="head")(h), name="tied")
    return kg.tie(model, "head/kernel", "tokens/embeddings", transform="transpose")


def one(layer):
    x = keras.Input((4,), name="x")
    return keras.Model(x, layer(x))


EXACT = {
    "keras's": made,
    "frozen": lambda: kg.freeze(made()),
    "patched": lambda: kg.patch(made(), {"bn": 0.5}),
    "patched by an input": lambda: kg.patch(made(), {"bn": lambda x: x * 2}),
    "then": lambda: one(kg.layers.Then(layers.Dense(2), layers.ReLU())),
    "merged adapters": lambda: kg.merge_adapters(kg.lora(made(), "d")),
    "same names": same_names,
    "class": with_class,
    "nested class": nested_class,
    "edited": lambda: kg.insert(made(), layers.Dropout(0.1, name="drop"), after="d"),
}
NEARLY = {
    "code": with_code,
    "operator": lambda: one(lambda x: kg.layers.Operator("pow")(x, 2)),
    "weight": lambda: one(lambda x: x * kg.layers.Weight((4,), name="w")(x) + 1.0),
    "tied": tied,
}


def given(model):
    rng = np.random.default_rng(0)
    if "int" in model.inputs[0].dtype:
        return rng.integers(0, 9, (3, 5)).astype("int32")
    return rng.normal(size=(3, 4)).astype("float32")


SCRIPT = """
import sys, numpy as np, keras
for name in sys.argv[2:]:
    model = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras")
    np.save(f"{sys.argv[1]}/{name}.out.npy", keras.ops.convert_to_numpy(model(np.load(f"{sys.argv[1]}/{name}.npy"))))
assert not [name for name in sys.modules if name.startswith("keras_graft")]
"""


def test_the_same_network_in_a_process_without_keras_graft(tmp_path):
    names, expected = {}, {}
    for number, (name, make) in enumerate({**EXACT, **NEARLY}.items()):
        model = make()
        x = given(model)
        with unchanged(model, tmp_path):
            plain = kg.plain(model, ties="untie") if name == "tied" else kg.plain(model)
            kinds = {
                type(n.operation).__module__.split(".")[0] for n in kg.select(plain, "**").nodes
            }
            assert kinds == {"keras"}, name
            assert {id(w) for w in plain.weights}.isdisjoint(id(w) for w in model.weights)
            if name in EXACT:
                equal(model(x), plain(x))
            else:
                np.testing.assert_allclose(
                    *(ops.convert_to_numpy(m(x)) for m in (plain, model)), rtol=1e-5, atol=1e-6
                )
            names[name] = f"m{number}"
            plain.save(tmp_path / f"m{number}.keras")
            np.save(tmp_path / f"m{number}.npy", x)
            expected[name] = ops.convert_to_numpy(plain(x))
            del plain
    # An empty folder instead of the sources, so that the package cannot be found by chance.
    env = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *names.values()], check=True, env=env
    )
    for name, file in names.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{file}.out.npy"), expected[name], name)


def test_what_is_trained_and_what_is_not():
    plain = kg.plain(kg.freeze(made(), ["d", "bn"]))
    assert [v.path.split("/")[0] for v in plain.trainable_variables] == ["lstm"] * 3 + ["e"] * 2
    before = [ops.convert_to_numpy(v) for v in plain.get_layer("bn").weights]
    plain.compile("sgd", "mse")
    plain.fit(np.ones((4, 4)), np.zeros((4, 3)), verbose=0)
    equal(before, plain.get_layer("bn").weights)
    still = kg.plain(one(kg.layers.Weight((4,), trains=False, name="w")))
    assert not still.trainable_variables and still.count_params() == 4


def attends():
    x = keras.Input((5, 4), name="x")
    h = layers.MultiHeadAttention(2, 3, name="a")(x, x)
    return keras.Model(x, layers.Dense(2, name="d")(h))


def bias_not_trained():
    model = attends()
    model.get_layer("d").bias.trainable = False
    return model


def trains_query_only():
    model = attends()
    for one in ("key", "value", "output"):
        getattr(model.get_layer("a"), f"_{one}_dense").trainable = False
    return model


def recurrent(layer):
    x = keras.Input((5, 4), name="x")
    return kg.freeze(keras.Model(x, layers.Dense(2, name="d")(layer(x))), layer.name)


@pytest.mark.parametrize(
    ("make", "trained"),
    [
        (lambda: kg.freeze(attends(), "a"), 2),
        (trains_query_only, 4),
        (lambda: kg.train_only(kg.train_only(attends(), "d"), "**"), 10),
        (lambda: recurrent(layers.Bidirectional(layers.LSTM(3), name="b")), 2),
        # Two cells: on JAX, Keras cannot run a stack of one.
        (lambda: recurrent(layers.RNN([layers.GRUCell(3), layers.GRUCell(3)], name="b")), 2),
        (lambda: recurrent(layers.TimeDistributed(layers.Dense(3), name="b")), 2),
    ],
)
def test_a_file_trains_what_the_model_trains(make, trained, tmp_path):
    model = make()
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    plain = kg.plain(model)
    plain.save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    assert [len(m.trainable_variables) for m in (model, plain, loaded)] == [trained] * 3
    equal(plain(x), loaded(x))
    np.testing.assert_allclose(*(ops.convert_to_numpy(m(x)) for m in (model, plain)), atol=1e-6)


@pytest.mark.once
def test_a_model_hands_its_flag_on_to_what_is_inside():
    model = attends()
    model.trainable = False
    assert [layer.name for layer in kg.plain(model).layers] == ["x", "a", "d"]


@pytest.mark.once
def test_an_unfrozen_dropout_inside_another_layer_is_still_seen():
    with pytest.raises(kg.EditError, match="b: in training, a layer of Keras"):
        kg.plain(recurrent(layers.Bidirectional(layers.LSTM(3, dropout=0.5), name="b")))


@keras.saving.register_keras_serializable("plain")
def twice(x):
    return ops.tanh(x) * 2


class Closed(layers.Layer):
    def call(self, x):
        return (
            x * float(np.sum(ops.convert_to_numpy(x)))
            if not isinstance(x, keras.KerasTensor)
            else x
        )


REFUSED = {
    "tied": (tied, "plain: 'head/kernel' is tied, and Keras has no ties. To give each a variable of its "
             'own: kg.plain(model, ties="untie").'),
    "adapters": (lambda: kg.lora(made(), "d"),
                 "d: it has adapters. Merge them first: kg.merge_adapters(model)"),
    "adapters inside": (lambda: kg.lora(attends(), "**/query"),
                        "a: it has adapters. Merge them first: kg.merge_adapters(model)"),
    "train_only": (lambda: kg.train_only(attends(), "d"),
                   "a: kg.train_only says which layers inside it train, and no file of Keras does. Let "
                   'all train: kg.train_only(model, "**"); then use kg.freeze'),
    "one weight": (bias_not_trained, "d: its 'bias' is not trained, and a file keeps one flag for a layer"),
    "dropout": (lambda: kg.freeze(one(layers.Dropout(0.5, name="drop"))),
                "drop: in training, a layer of Keras that is not trained still drops and draws"),
    "function": (lambda: one(layers.Dense(2, activation=twice, name="q")),
                 "q: its configuration names 'plain>twice'"),
    "closed": (lambda: one(Closed(name="odd")), "odd: Closed, which is not Keras's"),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_named(case):
    make, words = REFUSED[case]
    with pytest.raises(kg.EditError) as caught:
        kg.plain(make())
    assert words in str(caught.value), str(caught.value)


@pytest.mark.once
def test_the_words_for_ties():
    with pytest.raises(kg.EditError, match='ties must be "refuse" or "untie", got 3'):
        kg.plain(made(), ties=3)
