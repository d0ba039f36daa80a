"""`kg.remat` where a block has state of its own: dropout masks in cells, seeds, assigned weights."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_remat import is_remat, steps

import keras_graft as kg

DATA = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")


def recurrent():
    """Return blocks of cells that keep the dropout masks that they drew until their run ends."""
    x = keras.Input((5, 3), name="x")
    kept = {"return_sequences": True, "dropout": 0.3}
    h = layers.LSTM(3, **kept, recurrent_dropout=0.2, seed=3, name="b_0_lstm")(x)
    h = layers.GRU(3, **kept, seed=4, name="b_0_gru")(h)
    h = layers.Bidirectional(layers.LSTM(3, **kept, seed=5), name="b_1_both")(h)
    h = layers.Dense(3, activation="tanh", name="b_1_dense")(h)
    return keras.Model(x, layers.Dense(2, name="out")(h), name="cells")


def test_dropout_inside_cells_is_that_of_the_donor():
    model = recurrent()
    made = kg.remat(model, "b_*")
    y = np.ones((4, 5, 2), "float32")
    losses, values = steps(model, DATA, y, 3)
    again, found = steps(made, DATA, y, 3)
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for key, value in values.items():
        np.testing.assert_allclose(value, found[key], rtol=2e-4, atol=2e-6)


def test_gradients_inside_a_block_are_those_of_the_donor():
    x = keras.Input((3,), name="x")
    h = layers.Dense(4, activation="tanh", name="b_up")(x)
    h = layers.Dense(4, activation="tanh", name="b_down")(h)
    model = keras.Model(x, layers.Dense(2, name="out")(h), name="net")
    made = kg.remat(model, "b_*")
    found = kg.gradients(made, DATA[:, 0], at="b/b_up")
    wanted = kg.gradients(model, DATA[:, 0], at="b_up")
    assert np.abs(ops.convert_to_numpy(wanted.values)).max() > 0
    np.testing.assert_allclose(
        ops.convert_to_numpy(found.values), ops.convert_to_numpy(wanted.values), rtol=1e-5
    )


@keras.saving.register_keras_serializable("tests")
class Shrinks(layers.Dense):
    """Assigns its kernel, which is trained, when it is called."""

    def call(self, inputs, training=None):
        if training:
            self.kernel.assign(self.kernel * 0.9)
        return super().call(inputs)


def test_a_weight_that_is_trained_and_assigned_is_refused():
    x = keras.Input((3,), name="x")
    h = layers.SpectralNormalization(layers.Dense(3, name="inside"), name="b_norm")(x)
    h = Shrinks(3, activation="tanh", name="c_0_own")(h)
    model = keras.Model(x, layers.Dense(2, name="c_0_out")(h), name="net")
    with pytest.raises(kg.EditError, match="'b_norm' .SpectralNormalization. assigns the weight"):
        kg.remat(model, "b_norm")
    made = kg.remat(model, "c_0_*")
    model.compile("sgd", "mse", jit_compile=False)
    made.compile("sgd", "mse", jit_compile=False)
    y = np.ones((4, 2), "float32")
    with pytest.raises(kg.EditError, match="'c_0_own/kernel', which is trained"):
        made.train_on_batch(DATA[:, 0], y)
    kg.inline(made, kg.layers.Remat)  # the way out


@pytest.mark.once
def test_a_layer_that_keeps_its_state_is_refused():
    x = keras.Input(batch_shape=(4, 5, 3), name="x")
    h = layers.Bidirectional(layers.GRU(3, stateful=True, return_sequences=True), name="b_both")(x)
    model = keras.Model(x, layers.Dense(2, name="b_out")(h), name="net")
    with pytest.raises(kg.EditError, match="'b_both' .Bidirectional. is stateful"):
        kg.remat(model, "b_*")
    assert is_remat(kg.remat(model, "b_out"))  # the way out


def shared():
    i = keras.Input((3,), name="i")
    h = layers.Dropout(0.3, seed=2, name="drop")(layers.Dense(8, name="up")(i))
    block = keras.Model(i, layers.Dense(3, name="down")(h), name="block")
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(block(block(x))), name="twice")


def test_a_model_that_is_called_twice_names_the_way_out():
    model = shared()
    with pytest.raises(kg.EditError) as error:
        kg.remat(model, "block")
    assert "'block#0' is one of several calls of a model: 'block#1' too" in str(error.value)
    assert 'kg.remat(model, "**/block/*")' in str(error.value)
    made = kg.remat(model, "**/block/*")
    assert is_remat(made) and len([n for n in kg.read(made).nodes if n.name == "block"]) == 2
    y = np.ones((4, 2), "float32")
    losses, again = steps(model, DATA[:, 0], y)[0], steps(made, DATA[:, 0], y)[0]
    np.testing.assert_allclose(losses, again, rtol=1e-5)


@pytest.mark.once
def test_a_file_loads_in_another_process(tmp_path):
    made = kg.remat(shared(), "**/block/*")
    made.save(tmp_path / "m.keras")
    np.save(tmp_path / "wanted.npy", ops.convert_to_numpy(made(DATA[:, 0])))
    np.save(tmp_path / "x.npy", DATA[:, 0])
    code = (
        "import keras, numpy as np, keras_graft\n"
        "model = keras.saving.load_model('m.keras')\n"
        "given = keras.ops.convert_to_numpy(model(np.load('x.npy')))\n"
        "assert np.array_equal(given, np.load('wanted.npy'))\n"
        "model.compile('sgd', 'mse')\n"
        "model.train_on_batch(np.load('x.npy'), np.ones((4, 2)))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
