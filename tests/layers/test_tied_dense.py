"""The layer `TiedDense`: a dense layer with the matrix of another layer."""

import keras
import keras_hub
import numpy as np
import pytest
from architectures import backbones
from donor import arrays, equal, loads_alone
from keras import layers
from tied import in_file, model_of, size_in_file, target_like, train

import keras_graft as kg
from keras_graft.testing import random_inputs

SOURCES = {
    "embedding": lambda: layers.Embedding(11, 4, name="source"),
    "masked embedding": lambda: layers.Embedding(11, 4, mask_zero=True, name="source"),
    "dense": lambda: layers.Dense(4, name="source"),
    "keras's reversible": lambda: layers.ReversibleEmbedding(11, 4, name="source"),
    "hub's reversible": lambda: keras_hub.layers.ReversibleEmbedding(11, 4, name="source"),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_it_multiplies_by_the_matrix_turned_round(make, activation, tmp_path):
    source = make()
    model = model_of(source, activation=activation)
    matrix = next(w for w in source.weights if w.ndim == 2)
    assert model.count_params() == source.count_params() + 8 + 11
    assert [w is matrix for w in model.weights].count(True) == 1
    bias = np.linspace(-1, 1, 11).astype("float32")
    model.get_layer("head").bias.assign(bias)
    x = random_inputs(model, 3)
    (h,) = arrays(keras.Model(model.inputs, model.get_layer("norm").output)(x))
    kernel = arrays(matrix)[0]
    kernel = kernel if kernel.shape == (11, 4) else kernel.T
    if isinstance(source, layers.Dense):  # a kernel of (11, 4) gives back 11 from 4
        assert kernel.shape == (11, 4)
    want = h @ kernel.T + bias
    if activation:
        want = np.exp(want) / np.exp(want).sum(-1, keepdims=True)
    np.testing.assert_allclose(arrays(model(x))[0], want, rtol=1e-4, atol=1e-5)

    train(model, x, target_like(model, x), steps=2)
    path = tmp_path / "model.keras"
    model.save(path)
    assert size_in_file(path) == model.count_params()
    again = keras.models.load_model(path)
    for copy in (again, kg.clone(model)):
        assert copy.count_params() == model.count_params()
        head = copy.get_layer("head")
        assert head.source_layer is copy.get_layer("source")
        equal(copy(x), model(x))
        train(copy, x, target_like(copy, x))
        (embeddings,) = (w for w in copy.get_layer("source").weights if w.ndim == 2)
        np.testing.assert_array_equal(arrays(head.kernel)[0], arrays(embeddings)[0].T)


def test_it_learns_as_a_model_with_one_variable_by_hand_does():
    class Head(keras.Layer):
        def __init__(self, source):
            super().__init__()
            self.source = source
            self.bias = self.add_weight(shape=(11,), initializer="zeros")

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.source.embeddings)) + self.bias

    source, other = layers.Embedding(11, 4), layers.Embedding(11, 4)
    model = model_of(source)
    x = keras.Input((5,), dtype="int32")
    y = layers.LayerNormalization()(other(x))
    hand = keras.Model(x, Head(other)(y))
    other.set_weights(source.get_weights())
    data = random_inputs(model, 6)
    for m in (model, hand):
        train(m, data, target_like(model, data), steps=4, optimizer=keras.optimizers.SGD(0.1))
    np.testing.assert_allclose(
        arrays(source.embeddings)[0], arrays(other.embeddings)[0], rtol=1e-5, atol=1e-6
    )
    assert len(model.optimizer.variables) == len(hand.optimizer.variables)


def test_a_mask_goes_through_it():
    model = model_of(layers.Embedding(11, 4, mask_zero=True, name="source"))
    x = np.array([[1, 2, 0, 0, 0]])
    (mask,) = arrays(keras.ops.cast(model(x)._keras_mask, "int32"))
    assert mask.tolist() == [[1, 1, 0, 0, 0]]
    assert kg.read(model).named("head")[0].outputs[0].mask is not None


def test_the_source_may_be_in_another_model(tmp_path):
    source = layers.Embedding(11, 4, name="source")
    ids = keras.Input((5,), dtype="int32")
    encoder = keras.Model(ids, source(ids), name="encoder")
    h = keras.Input((5, 4))
    decoder = keras.Model(h, kg.layers.TiedDense(source, name="head")(h), name="decoder")
    x = keras.Input((5,), dtype="int32")
    model = keras.Model(x, decoder(encoder(x)), name="both")
    assert model.count_params() == 44 + 11
    copy = kg.clone(model)
    assert copy.count_params() == 55
    inside = copy.get_layer("decoder").get_layer("head")
    assert inside.source_layer is copy.get_layer("encoder").get_layer("source")
    copy.save(tmp_path / "m.keras")
    assert size_in_file(tmp_path / "m.keras") == 55
    again = keras.models.load_model(tmp_path / "m.keras")
    data = random_inputs(model, 2)
    for other in (copy, again):
        assert other.count_params() == 55
        equal(other(data), model(data))
    alone = kg.submodel(model, outputs="encoder")
    assert alone.count_params() == 44


def nested():
    source = layers.Embedding(11, 4, name="source")
    ids = keras.Input((5,), dtype="int32")
    encoder = keras.Model(ids, source(ids), name="encoder")
    x = keras.Input((5,), dtype="int32", name="x")
    return keras.Model(x, kg.layers.TiedDense(source, name="head")(encoder(x)), name="lm")


def backbone():
    bert = backbones()["Bert"]()
    inputs = {n: keras.Input(t.shape[1:], dtype=t.dtype, name=n) for n, t in bert.input.items()}
    head = kg.layers.TiedDense(bert.token_embedding, weight="embeddings", name="head")
    return keras.Model(inputs, head(bert(inputs)["sequence_output"]), name="masked_lm")


@pytest.mark.parametrize(
    "make",
    [lambda: model_of(layers.Embedding(11, 4, name="source")), nested, backbone],
    ids=["flat", "nested", "backbone"],
)
def test_a_model_of_keras_s_own_with_one(make, tmp_path):
    model = make()
    data = random_inputs(model, 2)
    model.save(tmp_path / "m.keras")
    assert size_in_file(tmp_path / "m.keras") == model.count_params()
    loaded = keras.models.load_model(tmp_path / "m.keras")
    copy = keras.models.clone_model(model)
    for other in (loaded, copy, keras.models.model_from_json(model.to_json())):
        assert type(other) is type(model) and other.count_params() == model.count_params()
        other.set_weights(model.get_weights())
        equal(other(data), model(data))
        (tie,) = kg.sharing(other).ties
        assert tie.target == "head/kernel" and tie.here
    equal(loaded(data), model(data))


def test_a_stage_with_the_head_alone_holds_the_matrix(tmp_path):
    model = model_of(layers.Embedding(11, 4, name="source"))
    trunk, head = kg.split(model, at="norm")
    assert trunk.count_params() == 44 + 8 and head.count_params() == 44 + 11
    head.save(tmp_path / "head.keras")
    assert size_in_file(tmp_path / "head.keras") == 55
    again = keras.models.load_model(tmp_path / "head.keras")
    data = random_inputs(head, 2)
    for a, b in zip(arrays(again(data)), arrays(head(data)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    joined = kg.join(trunk, head)
    assert joined.count_params() == model.count_params()
    data = random_inputs(model, 2)
    equal(joined(data), model(data))


def test_it_is_untied_into_a_plain_dense(tmp_path):
    model = model_of(layers.Embedding(11, 4, name="source"), activation="tanh")
    alone = kg.untie(model, "head/kernel")
    assert type(alone.get_layer("head")) is layers.Dense
    assert alone.count_params() == model.count_params() + 44
    data = random_inputs(model, 2)
    for a, b in zip(arrays(alone(data)), arrays(model(data)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    alone.save(tmp_path / "alone.keras")
    assert len(in_file(tmp_path / "alone.keras")) == 5
    again = keras.models.load_model(tmp_path / "alone.keras")
    assert loads_alone(again)  # of no class of ours
    equal(again(data), alone(data))


def test_edits_at_either_end(tmp_path):
    model = model_of(layers.Embedding(11, 4, name="source"))
    kept = kg.replace(model, "source", layers.Embedding(11, 4, name="wide"), weights="keep")
    head = kept.get_layer("head")
    np.testing.assert_array_equal(
        arrays(head.kernel)[0], arrays(kept.get_layer("wide").embeddings)[0].T
    )
    assert head.source_layer is kept.get_layer("wide")
    assert kept.count_params() == model.count_params()
    kept.save(tmp_path / "kept.keras")
    assert size_in_file(tmp_path / "kept.keras") == model.count_params()
    plain = kg.replace(
        model, "head", layers.Dense(11, activation="softmax", name="plain"), weights="keep"
    )
    assert plain.count_params() == model.count_params()
    with pytest.raises(kg.EditError, match="'head/kernel' is tied to 'source/embeddings'"):
        kg.replace(model, "source", layers.Embedding(11, 4, name="other"))
    assert kg.sharing(model).ties[0].target == "head/kernel"


def test_half_precision():
    source = layers.Embedding(11, 4, name="source", dtype="mixed_bfloat16")
    x = keras.Input((5,), dtype="int32")
    y = kg.layers.TiedDense(source, name="head", dtype="mixed_bfloat16")(source(x))
    model = keras.Model(x, y)
    data = random_inputs(model, 2)
    assert keras.backend.standardize_dtype(model(data).dtype) == "bfloat16"
    train(model, data, np.zeros((2, 5, 11), "float32"))
    assert source.embeddings.dtype == "float32"
    equal(kg.clone(model)(data), model(data))


def _unbuilt():
    return kg.layers.TiedDense(layers.Embedding(11, 4, name="late"), name="head")(
        keras.Input((5, 4))
    )


def _two_matrices():
    lstm = layers.LSTM(4, name="lstm")
    lstm(keras.Input((5, 4)))
    return kg.layers.TiedDense(lstm, name="head")(keras.Input((5, 4)))


def _other_size():
    source = layers.Embedding(11, 4, name="source")
    source(keras.Input((5,)))
    return kg.layers.TiedDense(source, name="head")(keras.Input((5, 6)))


def _no_such_weight():
    source = layers.Embedding(11, 4, name="source")
    source(keras.Input((5,)))
    return kg.layers.TiedDense(source, weight="kernel", name="head")(keras.Input((5, 4)))


def _quantized():
    source = layers.Embedding(11, 4, name="source")
    source(keras.Input((5,)))
    source.quantize("int8")
    return kg.layers.TiedDense(source, name="head")(keras.Input((5, 4)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_unbuilt, r"'head': its source 'late' is not built.*Call it first"),
        (_two_matrices, r"'lstm' has 2 matrices, but one is needed.*kernel \(4, 16\).*weight="),
        (_other_size, r"'source/embeddings' has shape \(11, 4\), so it takes inputs of 4 .* got 6"),
        (_no_such_weight, r"has 0 weights named 'kernel'.*embeddings \(11, 4\)"),
        (_quantized, r"its source 'source' is quantized \(int8\)"),
        (
            lambda: kg.layers.TiedDense("embedding"),
            r"source_layer must be a layer, got str.*kg.tie",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(kg.WeightsError, match=words):
        make()
