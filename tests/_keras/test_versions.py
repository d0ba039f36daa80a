"""Every verb once on a real network and on one with masks, ties and attention: short, for each Keras.

`make test` runs this file, and some others, under the oldest Keras that is supported and under each
minor version since. What it checks is checked at length elsewhere, under the newest.
"""

import keras
import numpy as np
import pytest
from architectures import application
from donor import arrays, equal, unchanged
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="versions of Keras are tried on PyTorch"
)


@pytest.fixture(scope="module")
def net():
    return application("MobileNetV3Small")


def text():
    """Tokens with a mask, attention, a recurrent layer, a nested model called twice."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, mask_zero=True, name="embed")(ids)
    block = keras.Input((None, 8), name="block_in")
    y = layers.LayerNormalization(name="norm")(block)
    y = layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    block = keras.Model(block, layers.Dropout(0.1, name="drop")(y + block), name="block")
    x = block(block(x))
    x = layers.LSTM(8, return_sequences=True, name="lstm")(x)
    x = layers.Dense(9, use_bias=False, name="logits")(x)
    return keras.Model(ids, x, name="text")


@pytest.fixture
def tokens():
    return np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]], "int32")


def loaded(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


def taken_apart(net, x, folder):
    trunk, head = kg.split(net, at=list(kg.cuts(net))[len(kg.cuts(net)) // 2])
    equal(head(trunk(x)), arrays(net(x)))
    joined = kg.join(trunk, head)
    equal(joined(x), arrays(net(x)))
    equal(loaded(joined, folder)(x), arrays(net(x)))
    tap = kg.select(net, "*").labels[5]
    equal(kg.extract(net, tap)(x), arrays(kg.submodel(net, outputs=tap)(x)))
    assert not kg.diff(net, joined).new_parameters


def test_taken_apart_saved_and_joined(net, tmp_path):
    with unchanged(net, tmp_path) as x:
        taken_apart(net, x, tmp_path)


def test_edited_trained_and_saved(net, tmp_path):
    x = random_inputs(net, 2)
    norms = kg.select(net, layers.BatchNormalization)
    edited = kg.insert(net, lambda n: layers.Activation("linear"), after=layers.BatchNormalization)
    assert len(edited.layers) == len(net.layers) + len(norms)
    equal(edited(x), arrays(net(x)))
    edited = kg.remove(edited, lambda n: type(n.operation).__name__ == "Dropout")
    edited = kg.recipes.fold_batchnorm(edited).model
    assert np.abs(arrays(edited(x))[0] - arrays(net(x))[0]).max() < 1e-4
    edited.compile(keras.optimizers.Adam(1e-4), "mse")
    edited.fit(x, np.zeros((2, 3)), verbose=0)
    equal(loaded(edited, tmp_path)(x), arrays(edited(x)))
    smaller = kg.reinput(net, shape=(64, 64, 3))
    assert smaller.input_shape == (None, 64, 64, 3)


def test_copies_and_trained_weights(net, tmp_path):
    x = random_inputs(net, 2)
    copy = kg.clone(net)
    equal(copy(x), arrays(net(x)))
    fresh = kg.clone(net, weights="fresh")
    copy.save_weights(tmp_path / "a.weights.h5")
    report = kg.transplant(tmp_path / "a.weights.h5", fresh)
    assert len(report.moved) == len(net.weights)
    equal(fresh(x), arrays(net(x)))


def test_text_with_ties(tokens, tmp_path):
    model = text()
    expected = arrays(model(tokens))
    flat = kg.inline(model, "block")
    equal(flat(tokens), expected)
    equal(loaded(flat, tmp_path)(tokens), expected)
    tied = kg.tie(model, "logits/kernel", "embed/embeddings", transform="transpose")
    assert tied.count_params() == model.count_params() - 72
    equal(loaded(tied, tmp_path)(tokens), arrays(tied(tokens)))
    equal(kg.clone(tied)(tokens), arrays(tied(tokens)))
    tied.compile("adam", "mse")
    tied.fit(tokens, np.zeros((2, 5, 9)), verbose=0)
    kernel, table = tied.get_layer("logits").kernel, tied.get_layer("embed").embeddings
    assert (np.asarray(table) == np.asarray(kernel).T).all()
    assert kg.untie(tied, "logits/kernel").count_params() == model.count_params()


def test_an_optimizer_goes_on(tokens):
    target = np.zeros((2, 5, 9), "float32")
    old = text()
    old.compile(keras.optimizers.Adam(1e-2), "mse")
    old.fit(tokens, target, verbose=0)
    new = kg.insert(old, layers.Activation("linear"), after="lstm")
    new.compile(keras.optimizers.Adam(1e-2), "mse")
    kg.carry_optimizer(old, new)
    assert int(new.optimizer.iterations) == 1
    equal(new.optimizer.variables, arrays(old.optimizer.variables))
    again = kg.clone(old, compile=True)
    again.fit(tokens, target, verbose=0)


def test_frozen_under_fit(net, tmp_path):
    x = random_inputs(net, 4)
    trunk = kg.extract(net, list(kg.cuts(net))[-3])
    frozen = kg.freeze(trunk)
    head = layers.Dense(2, name="out")(layers.Flatten()(frozen.output))
    model = keras.Model(frozen.input, head)
    expected = arrays(trunk(x, training=False))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.zeros((4, 2)), epochs=2, verbose=0)
    equal(trunk(x, training=False), expected)
    assert len(model.trainable_variables) == 2
    equal(loaded(model, tmp_path)(x), arrays(model(x)))


def test_a_head_on_features(net, tmp_path):
    data = np.asarray(random_inputs(net, 8)), np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2, 0, 1]]
    model = kg.clone(net)
    model.compile("adam", "mse")
    at = list(kg.cuts(model))[-4]
    fitted = kg.features.fit_head(
        model, at, data, store=tmp_path / "store", epochs=1, batch_size=4, verbose=0
    )
    store = kg.features.FeatureStore(tmp_path / "store")
    assert len(store) == 8 and fitted is not None


def test_a_recorded_flag_when_a_model_inside_is_opened():
    """Whichever flag wins in this Keras, opening the model changes nothing, and `diff` knows it."""
    x = keras.Input((4,), name="x")
    inner = keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    inner = keras.Model(inner, norm(inner, training=False), name="inner")
    model = keras.Model(x, inner(x, training=True), name="m")
    data = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    opened = kg.inline(model, "inner")
    for flag in (None, False, True):
        equal(opened(data, training=flag), arrays(model(data, training=flag)))
    assert not kg.diff(model, opened).other_outputs


def test_a_mask_that_enters_a_nested_model_is_an_edge_inside_it(tokens):
    """From Keras 3.16 on, masks are not recorded at the call: they come with the tensor alone."""
    a, b = keras.Input((None, 8), name="a"), keras.Input((8,), name="b")
    y = layers.LSTM(8, name="lstm")(layers.Dense(8, name="d0")(a))
    two = keras.Model([a, b], y + b, name="two")
    ids, other = keras.Input((5,), dtype="int32", name="ids"), keras.Input((8,), name="other")
    embedded = layers.Embedding(9, 8, mask_zero=True, name="embed")(ids)
    model = keras.Model([ids, other], two([embedded, other]), name="m")
    with pytest.raises(kg.CutError, match="'not_equal.*', needed by 'two/d0', 'two/lstm'"):
        kg.split(model, at=("two/d0", "other"))
    x = [tokens, np.ones((2, 8), "float32")]
    trunk, head = kg.split(model, at=("two/d0", "other"), complete=True)
    equal(head(trunk(x)), arrays(model(x)))
    equal(kg.inline(model, "two")(x), arrays(model(x)))
