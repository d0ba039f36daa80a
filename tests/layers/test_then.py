"""`kg.layers.Then`: a layer and a second one as one layer."""

import keras
import numpy as np
import pytest
from donor import arrays, equal

import keras_graft as kg


class Pair(keras.layers.Layer):
    """Gives two things, takes a keyword, and passes its mask on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4, name="dense")
        self.supports_masking = True

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, scale=1.0, mask=None):
        return self.dense(x) * scale, x


def _data():
    return np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")


def test_the_second_layer_takes_the_first_output():
    pair, second = Pair(), keras.layers.Dense(2)
    both = kg.layers.Then(pair, second)
    first, other = both(_data(), scale=3.0)
    expected = second(pair(_data(), scale=3.0)[0])
    equal([first, other], [expected, _data()])
    assert both.compute_output_spec(keras.KerasTensor((None, 3, 4)))[0].shape == (None, 3, 2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_in_a_model_that_trains_is_saved_and_loaded(policy, tmp_path):
    block = keras.layers.Dense(4, activation="relu", dtype=policy, name="block")
    both = kg.layers.Then(block, keras.layers.LayerNormalization(dtype=policy), name="both")
    x = keras.Input((3, 4), name="x")
    model = keras.Model(x, keras.layers.Dense(1, dtype=policy)(both(x)))
    assert len(both.weights) == 4 and len(model.trainable_weights) == 6
    assert both.compute_dtype == block.compute_dtype
    model.compile("sgd", "mse")
    before = arrays(model.weights)
    model.fit(_data(), np.ones((2, 3, 1)), verbose=0)
    assert not all(np.array_equal(a, b) for a, b in zip(before, arrays(model.weights), strict=True))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("both")) is kg.layers.Then
    equal(loaded(_data()), model(_data()))


def test_a_mask_goes_through():
    ids = keras.Input((5,), dtype="int32")
    h = keras.layers.Embedding(9, 4, mask_zero=True)(ids)
    both = kg.layers.Then(keras.layers.Dropout(0.1), keras.layers.Dense(4), name="both")
    model = keras.Model(ids, keras.layers.LSTM(3, name="lstm")(both(h)))
    by_hand = keras.Model(ids, model.get_layer("lstm")(both.second(both.layer(h))))
    data = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]])
    np.testing.assert_allclose(*arrays([model(data), by_hand(data)]), atol=1e-6)
    other = data.copy()
    other[0, 2:] = 7
    assert not np.allclose(*arrays([model(data), model(other)]))


def test_verbs_reach_inside():
    block = keras.layers.Dense(4, name="block")
    x = keras.Input((3, 4), name="x")
    both = kg.layers.Then(block, keras.layers.Dense(4, name="second"), name="both")
    model = keras.Model(x, both(x))
    tuned = kg.lora(model, "both/second", rank=2)
    equal(tuned(_data()), model(_data()))
    copy = kg.clone(model, weights="copy")
    equal(copy(_data()), model(_data()))
    assert copy.get_layer("both").layer is not block
