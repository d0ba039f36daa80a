"""GPTQ and AWQ on the graph: every layer sees its own inputs."""

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers

import keras_graft as kg

SIZES = {"dataset": None, "tokenizer": None, "group_size": -1}


def config(mode, **more):
    cls = getattr(keras.quantizers, {"gptq": "GPTQConfig", "awq": "AWQConfig"}[mode], None)
    if cls is None:
        pytest.skip("this Keras has no AWQ")
    return cls(**{**SIZES, **more})


def data(count=64, width=8):
    """Samples on a plane, so that the directions count."""
    rng = np.random.default_rng(3)
    return (rng.normal(size=(count, 2)) @ rng.normal(size=(2, width))).astype("float32")


def branches():
    x = keras.Input((8,), name="x")
    a = layers.Dense(8, activation="tanh", name="a")(x)
    b = layers.Dense(8, name="b")(x)
    y = layers.Add(name="add")([a, b])
    return keras.Model(x, layers.Dense(4, name="out")(y), name="branches")


def by_hand(model, mode, order, x):
    """Quantize in turn, with Keras's own classes and the inputs that each layer has."""
    model = kg.clone(model)
    from keras.src.quantizers.gptq import GPTQ  # noqa: PLC0415

    for name in order:
        layer = model.get_layer(name)
        given = _input(model, name, x)
        work = GPTQ(layer, config(mode))
        work.update_hessian_with_batch(keras.ops.convert_to_tensor(given))
        layer.quantize(mode, config=config(mode))
        work.quantize_and_correct_layer()
        work.free()
    return model


def _input(model, name, x):
    return x if name in "ab" else arrays(kg.extract(model, "add")(x))[0]


def test_gptq_is_keras_s_own_on_the_inputs_of_each_layer(tmp_path):
    model, x = branches(), data()
    with unchanged(model, tmp_path):
        small = kg.quantize(model, "**", "gptq", config=config("gptq"), data=x, batch_size=64)
        hand = by_hand(model, "gptq", ["a", "b", "out"], x)
        equal([w for w in small.weights], [w for w in hand.weights])
        small.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        equal(small(x), loaded(x))
        kg.clone(loaded).save(tmp_path / "again.keras")
        equal(small(x), keras.models.load_model(tmp_path / "again.keras")(x))
        small = hand = loaded = None


def test_gptq_looks_at_the_data():
    x = keras.Input((32,), name="x")
    start = keras.initializers.GlorotUniform(1)
    model = keras.Model(x, layers.Dense(16, kernel_initializer=start, name="d")(x))
    seen, zeros = data(width=32), np.zeros((64, 32), "float32")

    def error(calibration):
        small = kg.quantize(model, "d", "gptq", config=config("gptq"), data=calibration)
        return np.abs(arrays(small(seen))[0] - arrays(model(seen))[0]).mean()

    assert error(seen) < 0.7 * error(zeros)


@pytest.mark.parametrize("mode", ["gptq", "awq"])
def test_blocks_nested_models_and_attention(mode, tmp_path):
    x = inputs = keras.Input((5, 8), name="x")
    for i in range(2):
        y = layers.MultiHeadAttention(2, 4, name=f"block_{i}_attention")(x, x)
        x = layers.Add(name=f"block_{i}_add")([x, y])
        inner = keras.Input((5, 8), name=f"inner_{i}")
        mlp = keras.Model(inner, layers.Dense(8, name="d")(inner), name=f"block_{i}_mlp")
        x = mlp(x)
    model = keras.Model(inputs, x)
    given = np.random.default_rng(0).normal(size=(6, 5, 8)).astype("float32")
    one = kg.quantize(model, "**", mode, config=config(mode), data=given)
    two = kg.quantize(model, "**", mode, config=config(mode), data=given, blocks="block_*_mlp")
    for small in (one, two):
        rows = kg.list_quantized(small, model).rows
        assert len(rows) == 10 and all(row.error.mean < row.error.scale / 3 for row in rows)
        small.save(tmp_path / "m.keras")
        equal(small(given), keras.models.load_model(tmp_path / "m.keras")(given))
    apart = [np.abs(arrays(m(given))[0] - arrays(model(given))[0]).max() for m in (one, two)]
    assert mode == "awq" or max(apart) < 2  # Keras's AWQ is coarse on TensorFlow


@pytest.mark.once
def test_a_kernel_that_keras_takes_for_another_matrix_is_refused():
    x = keras.Input((4, 2), name="x")  # 2 -> 3 heads of 5: the largest axis is not the input's
    y = layers.EinsumDense("abc,cde->abde", (4, 3, 5), name="heads")(x)
    with pytest.raises(kg.EditError, match="for a matrix of 6 rows; for 'abc,cde->abde' it has 2"):
        kg.quantize(keras.Model(x, y), "heads", "gptq", data=np.ones((2, 4, 2), "float32"))


@pytest.mark.once
def test_the_dataset_of_the_configuration():
    class Words:
        def tokenize(self, text):
            return np.array([ord(letter) % 7 for letter in text])

    x = keras.Input((4,), dtype="int32", name="x")
    model = keras.Model(x, layers.Dense(3, name="d")(layers.Embedding(7, 6, name="e")(x)))
    own = config(
        "gptq", dataset=["some words"], tokenizer=Words(), num_samples=3, sequence_length=4
    )
    small = kg.quantize(model, "d", "gptq", config=own)
    assert small.get_layer("d").quantization_config.dataset is None
    assert small.get_layer("d").quantization_mode == "gptq"
