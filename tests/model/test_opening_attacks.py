"""Code that once gave a wrong graph, or left something on the donor, when it was read."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.errors import ReadError

RNG = np.random.default_rng(3)


def data(*shape):
    return RNG.normal(size=shape).astype("float32")


def numbers(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def model_of(code, **parts):
    """A subclassed model that runs `code(self, x)`; it holds the layers in `parts`."""

    class Coded(keras.Model):
        def __init__(self):
            super().__init__(name="coded")
            for name, layer in parts.items():
                setattr(self, name, layer)

        def call(self, x):
            return code(self, x)

    return Coded()


def length(x):
    return ops.shape(x)[1]


def padded_chunks(self, x):
    return ops.concatenate([self.d(x[:, i : i + 64]) for i in range(0, x.shape[1], 64)], 1)


def halved(self, x):
    return self.d(x)[:, : int(x.shape[1]) // 2 * 2] if int(x.shape[1]) % 2 else self.d(x)


def repeated(self, x):
    for _ in range(int(np.log2(x.shape[1]))):
        x = self.d(x)
    return x


def while_size(self, x):
    size = x.shape[1]
    while size:
        x, size = self.d(x), size // 2
    return x


def odd_bit(self, x):
    return self.d(x[:, :-1] if x.shape[1] & 1 else x)


def one(self, x):
    return self.d(x) * 2 if x.shape[1] == 1 else self.d(x)


@pytest.mark.parametrize("code", [padded_chunks, halved, repeated, while_size, odd_bit, one])
def test_code_that_does_something_else_for_some_sizes_is_not_taken_for_code_of_any_size(code):
    # 16 and 24 do the same in each of these: both are even, below 64, and have four binary digits.
    model = model_of(code, d=layers.Dense(4))
    model(data(2, 16, 4))
    with pytest.raises(ReadError, match="size"):
        kg.read(model, keras.Input((None, 4)))
    assert kg.read(model, data(2, 16, 4)).inputs[0].spec.shape == (None, 16, 4)


def of_batch_or_length(self, x):
    y = ops.reshape(x, (ops.shape(x)[0], length(x) // 8, 32))
    y = self.d(y)
    return ops.reshape(y, (-1, ops.shape(y)[1] * 4))


def by_hundreds(self, x):
    return self.d(x) * (1 + length(x) // 100)


def last_half(self, x):
    return self.d(x)[:, length(x) // 2 :]


def centred(self, x):
    return self.d(x) / length(x)


@pytest.mark.parametrize("code", [of_batch_or_length, by_hundreds, last_half, centred])
@pytest.mark.parametrize("shape", [(5, 32, 4), (1, 208, 4), (3, 8, 4)])
def test_sizes_that_agree_by_chance_are_computed_at_each_call(code, shape):
    # 16 // 8 and 24 // 8 are 2 and 3; 16 // 100 and 24 // 100 are both 0.
    model = model_of(code, d=layers.Dense(4))
    model(data(2, 16, 4))
    built = kg.build(kg.read(model, keras.Input((None, 4))).replace(origin=None, past=None))
    x = data(*shape)
    np.testing.assert_array_equal(numbers(built(x)), numbers(model(x)))


def test_the_height_after_a_stride_is_not_taken_for_the_batch():
    def code(self, x):
        y = self.d(x)
        return ops.reshape(y, (-1, ops.shape(y)[1] * ops.shape(y)[2], 3))

    model = model_of(code, d=layers.Conv2D(3, 32, strides=32))
    model(data(2, 64, 96, 3))
    built = kg.build(kg.read(model, keras.Input((None, None, 3))).replace(origin=None, past=None))
    x = data(1, 64, 128, 3)
    assert built(x).shape == (1, 8, 3)
    np.testing.assert_array_equal(numbers(built(x)), numbers(model(x)))


def test_a_layer_that_only_training_uses_stays_unbuilt():
    class Augmented(keras.Model):
        def __init__(self):
            super().__init__(name="augmented")
            self.d = layers.Dense(4)
            self.extra = layers.Dense(4, kernel_initializer="zeros")

        def call(self, x, training=None):
            return self.d(self.extra(x) if training else x)

    model = Augmented()
    model(data(2, 4))
    with pytest.raises(ReadError, match="never built"):
        kg.read(model, data(2, 4))
    assert not model.extra.built
    assert len(model.weights) == 2


def test_a_layer_made_in_the_call_is_not_kept_by_the_graph():
    model = model_of(lambda self, x: layers.Dropout(0.5, seed=3)(self.d(x)), d=layers.Dense(4))
    model(data(2, 4))
    with pytest.raises(ReadError, match="does not hold"):
        kg.read(model, data(2, 4))


@pytest.mark.parametrize("key", ["None", "slice", "ellipsis"])
def test_a_key_that_is_no_tuple_is_taken(key):
    def code(self, x):
        y = self.d(x)
        if key == "None":
            return y * ops.cast(ops.arange(length(x)), "float32")[None][..., None]
        return y + x[...] if key == "ellipsis" else y + self.table.kernel[: length(x)]

    table = layers.Dense(4)
    table.build((300, 300))
    model = model_of(code, d=layers.Dense(4), table=table)
    model(data(2, 16, 4))
    built = kg.build(kg.read(model, keras.Input((None, 4))).replace(origin=None, past=None))
    x = data(3, 37, 4)
    np.testing.assert_array_equal(numbers(built(x)), numbers(model(x)))


def test_a_numpy_scalar_on_the_left_is_taken():
    model = model_of(lambda self, x: np.sqrt(6.0) * self.d(x), d=layers.Dense(4))
    model(data(2, 4))
    built = kg.build(kg.read(model, data(2, 4)).replace(origin=None, past=None))
    x = data(5, 4)
    np.testing.assert_array_equal(numbers(built(x)), numbers(model(x)))
