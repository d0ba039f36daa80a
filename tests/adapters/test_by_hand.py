"""Adapters against low-rank adaptation written by hand."""

import keras
import numpy as np
import pytest
from adapted import arrays, close
from keras import layers, ops

import keras_graft as kg

RATE, STEPS = 0.2, 4


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5)).astype("float32")
    return x, rng.normal(size=(6, 3)).astype("float32")


def network():
    x = keras.Input((5,), name="x")
    y = layers.Dense(4, activation="tanh", name="hidden")(x)
    return keras.Model(x, layers.Dense(3, name="out")(y), name="m")


def by_hand(weights, a, b, scale, x, y):
    """Train the two factors of the first kernel with plain gradient descent, in NumPy."""
    w, c, v, d = (np.asarray(value, "float64") for value in weights)
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    for _ in range(STEPS):
        h = np.tanh(x @ (w + scale * a @ b) + c)
        error = 2 * (h @ v + d - y) / y.size
        inner = (error @ v.T) * (1 - h**2)
        kernel = x.T @ inner
        a, b = a - RATE * scale * kernel @ b.T, b - RATE * scale * a.T @ kernel
    return a, b, np.tanh(x @ (w + scale * a @ b) + c) @ v + d


@pytest.mark.parametrize("policy", ["fit", "train_on_batch"])
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_training_is_that_of_a_loop_by_hand(alpha, policy):
    x, y = data()
    donor = network()
    tuned = kg.lora(donor, "hidden", rank=2, alpha=alpha, seed=1)
    a, b = tuned.trainable_variables
    b.assign(np.random.default_rng(1).normal(size=b.shape))
    scale = 1.0 if alpha is None else alpha / 2
    wanted = by_hand(arrays(donor.weights), *arrays([a, b]), scale, x, y)
    tuned.compile(keras.optimizers.SGD(RATE), "mse")
    if policy == "fit":
        tuned.fit(x, y, batch_size=6, epochs=STEPS, verbose=0)
    else:
        for _ in range(STEPS):
            tuned.train_on_batch(x, y)
    close([a, b, tuned(x)], [ops.cast(v, "float32") for v in wanted])
    close(kg.merge_adapters(tuned)(x), tuned(x))


def test_it_computes_what_keras_does():
    """For a weight of two dimensions, Keras's own LoRA has the same factors."""
    x, y = data()
    ours, its = network(), network()
    its.set_weights(ours.get_weights())
    its.get_layer("hidden").enable_lora(2, lora_alpha=3)
    for name in ("out",):
        its.get_layer(name).trainable = False
    its.get_layer("hidden").bias.trainable = False
    tuned = kg.lora(ours, "hidden", rank=2, alpha=3)
    rng = np.random.default_rng(1)
    values = [rng.normal(size=v.shape) for v in tuned.trainable_variables]
    assert [v.shape for v in its.trainable_variables] == [v.shape for v in values]
    for model in (tuned, its):
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(x, y, batch_size=6, epochs=3, verbose=0)
    close(tuned.trainable_variables, its.trainable_variables)
    close(tuned(x), its(x))


LAYERS = {
    "Dense": (lambda: layers.Dense(4, name="d"), (3,), "kernel", (0,)),
    "Embedding": (lambda: layers.Embedding(2, 3, name="d"), (4,), "embeddings", (0,)),
    "Conv1D": (lambda: layers.Conv1D(4, 3, name="d"), (8, 2), "kernel", (0, 1)),
    "Conv2D": (lambda: layers.Conv2D(4, 3, groups=2, name="d"), (8, 8, 2), "kernel", (0, 1, 2)),
    "Conv3D": (lambda: layers.Conv3D(2, 2, name="d"), (4, 4, 4, 2), "kernel", (0, 1, 2, 3)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(4, 3, name="d"), (5, 2), "kernel", (0, 2)),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(4, 2, name="d"), (5, 5, 2), "kernel", (0, 1, 3),
    ),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, name="d"), (8, 8, 2), "kernel", (0, 1)),
    "EinsumDense": (
        lambda: layers.EinsumDense("bd,ndh->bnh", (2, 3), name="d"), (4,), "kernel", (1,),
    ),
    "no output axis": (
        lambda: layers.EinsumDense("bd,dh->bh", 3, name="d"), (4,), "kernel", (0,),
    ),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, name="d"), (4, 2), "simple_rnn_cell/kernel", (0,)),
    "GRU": (lambda: layers.GRU(3, name="d"), (4, 2), "gru_cell/recurrent_kernel", (0,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_the_weight_is_the_base_and_the_scaled_product(kind):
    make, shape, weight, inputs = LAYERS[kind]
    dtype = "int32" if kind == "Embedding" else None
    x = keras.Input(shape, dtype=dtype)
    donor = keras.Model(x, make()(x))
    tuned = kg.lora(donor, f"d/{weight}", rank=2, alpha=5)
    a, b = tuned.trainable_variables
    rng = np.random.default_rng(0)
    for factor in (a, b):
        factor.assign(rng.normal(size=factor.shape))
    (base,) = (v for v in donor.weights if v.path.endswith(weight))
    outputs = [axis for axis in range(len(base.shape)) if axis not in inputs]
    first, second = arrays([a, b])
    assert first.shape == (*(base.shape[i] for i in inputs), 2)
    assert second.shape == (2, *(base.shape[i] for i in outputs))
    letters = "abcdefg"[: len(base.shape)]
    equation = "{}z,z{}->{}".format(
        "".join(letters[i] for i in inputs), "".join(letters[i] for i in outputs), letters
    )
    wanted = arrays(base)[0] + 2.5 * np.einsum(equation, first, second)
    given = keras.random.normal((2, *shape), seed=1) if dtype is None else np.ones((2, *shape), int)
    by_hand = kg.clone(donor)
    (target,) = (v for v in by_hand.weights if v.path.endswith(weight))
    target.assign(wanted)
    close(tuned(given), by_hand(given), 1e-4)
    merged = kg.merge_adapters(tuned)
    (value,) = (v for v in merged.weights if v.path.endswith(weight))
    close(value, wanted)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["Dense", "Embedding", "EinsumDense"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_layers_add_to_what_their_integers_give(kind, mode, tmp_path):
    if kind == "EinsumDense":
        x = keras.Input((3, 8), name="x")
        layer = layers.EinsumDense("btd,dnh->btnh", (None, 2, 6), bias_axes="nh", name="d")
    elif kind == "Dense":
        x, layer = keras.Input((8,), name="x"), layers.Dense(6, name="d")
    else:
        x, layer = keras.Input((4,), dtype="int32", name="x"), layers.Embedding(5, 6, name="d")
    donor = keras.Model(x, layer(x))
    donor.quantize(mode)
    rng = np.random.default_rng(0)
    given = (
        rng.integers(0, 5, (3, 4)) if kind == "Embedding" else rng.normal(size=(3, *x.shape[1:]))
    )
    given = given.astype("int32" if kind == "Embedding" else "float32")
    plain = arrays(donor(given))[0]
    tuned = kg.lora(kg.lora(donor, "d", 2, alpha=3), "d", 3, name="more")
    np.testing.assert_array_equal(arrays(tuned(given))[0], plain)
    tuned = kg.set_adapters(tuned, ["default", "more"])
    values = [rng.normal(size=v.shape) for v in tuned.trainable_variables]
    for variable, value in zip(tuned.trainable_variables, values, strict=True):
        variable.assign(value)
    a, b, c, d = values
    delta = 1.5 * np.tensordot(a, b, 1) + np.tensordot(c, d, 1)
    added = delta[given] if kind == "Embedding" else np.tensordot(given, delta, 1)
    close(tuned(given), (plain + added).astype("float32"), 1e-4)
    # It trains, as Keras's own does, and a file keeps the integers and the adapters.
    out = arrays(tuned(given))[0]
    tuned.compile(keras.optimizers.SGD(0.01), "mse")
    tuned.fit(given, np.zeros(out.shape, "float32"), verbose=0)
    now = arrays(tuned(given))[0]
    assert np.square(now).mean() < np.square(out).mean()
    np.testing.assert_array_equal(arrays(donor(given))[0], plain)
    tuned.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(arrays(again(given))[0], now)
    kg.save_adapters(tuned, tmp_path / "a.safetensors")
    loaded = kg.load_adapters(kg.clone(donor), tmp_path / "a.safetensors")
    np.testing.assert_array_equal(arrays(loaded(given))[0], now)
    np.testing.assert_array_equal(arrays(kg.clone(tuned)(given))[0], now)
    np.testing.assert_array_equal(arrays(kg.remove_adapters(tuned)(given))[0], plain)
    with pytest.raises(kg.EditError, match=r"'d/(kernel|embeddings)' is quantized \(int"):
        kg.merge_adapters(tuned)
