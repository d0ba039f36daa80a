"""group: activations and sums over units are exact, or the group says that they are not."""

import keras
import numpy as np
import pytest
from exactness import end, found, of, tokens, units
from keras import layers as L
from keras import ops


@keras.saving.register_keras_serializable("exact")
def centred(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("exact")
def turned(x):
    return ops.flip(x, -1)


@keras.saving.register_keras_serializable("exact")
def own(x):
    return x * ops.sigmoid(1.7 * x)


NOT_ALONE = {
    "GRU": lambda x: L.GRU(6, activation="softmax", name="a")(x),
    "LSTM": lambda x: L.LSTM(6, recurrent_activation="softmax", name="a")(x),
    "SimpleRNN": lambda x: L.SimpleRNN(6, activation="softmax", name="a")(x),
    "RNN": lambda x: L.RNN(L.GRUCell(6, activation="softmax"), name="a")(x),
    "Bidirectional": lambda x: L.Bidirectional(L.GRU(6, activation="softmax"), name="a")(x),
    "ConvLSTM": lambda x: L.ConvLSTM1D(6, 1, activation="softmax", name="a")(x[..., None]),
    "Softmax": lambda x: units(activation=L.Softmax())(x),
    "own": lambda x: units(activation=centred)(x),
    "Activation": lambda x: L.Activation(centred)(units()(x)),
    "turned": lambda x: units(activation=turned)(x),
    "Softmax of steps": lambda x: L.Dense(3, activation=L.Softmax(axis=1))(tokens(x)),
}


@pytest.mark.parametrize("case", NOT_ALONE)
def test_an_activation_over_the_channels_is_noted(case):
    group = found(of(lambda x: end(NOT_ALONE[case](x))))
    assert group.free and group.changes


ALONE = {
    "ReLU": lambda x: units(activation=L.ReLU(max_value=6))(x),
    "own": lambda x: units(activation=own)(x),
    "GRU": lambda x: L.GRU(6, activation=own, recurrent_activation="hard_sigmoid", name="a")(x),
    "Softmax of steps": lambda x: units(activation=L.Softmax(axis=1))(x),
}


@pytest.mark.parametrize("case", ALONE)
def test_an_activation_of_each_number_is_exact(case):
    group = found(of(lambda x: end(ALONE[case](x))))
    assert group.free and not group.changes


@pytest.mark.parametrize("layer", [L.LayerNormalization, L.PReLU])
def test_an_activation_with_weights_is_protected(layer):
    group = found(of(lambda x: end(units(activation=layer())(x))))
    assert not group.free and "has weights: use it behind" in group.protected[0]


def half(x, **more):
    return units(activation="sigmoid", **more)(x)


def moved(x):
    return L.Dense(6, name="b")(x) + ops.mean(x, -1, keepdims=True)


def dot_of(x, **more):
    return L.Dot(2, **more)([half(x), L.Dense(6, activation="sigmoid", name="b")(x)])


SUMS = {
    "sum": lambda x: ops.sum(half(x), -1),
    "of ones": lambda x: ops.sum(ops.relu(units()(x)) + 1.0, -1),
    "softplus": lambda x: ops.sum(ops.softplus(units()(x)), -1, keepdims=True),
    # On PyTorch, Keras turns what is counted in more than one dimension.
    "count": lambda x: ops.cast(ops.count_nonzero(half(x)[:, 0], -1), "float32"),
    "unit": lambda x: L.UnitNormalization()(half(x)),
    "normalize": lambda x: ops.normalize(half(x)),
    "dot": lambda x: dot_of(x),
    "dot of normalized": lambda x: dot_of(x, normalize=True),
    "matmul": lambda x: ops.matmul(t := half(x), ops.transpose(t, (0, 2, 1))),
    "einsum": lambda x: ops.einsum("btc,bsc->bts", t := half(x), t),
    "attention": lambda x: L.Attention()([half(x), x, moved(x)]),
    "additive": lambda x: L.AdditiveAttention(use_scale=False)([half(x), x, moved(x)]),
    "lstm": lambda x: ops.sum(L.LSTM(6, activation="sigmoid", name="a")(x), -1, keepdims=True),
    "nested": lambda x: ops.sum(nested()(units()(x)), -1),
    "steps": lambda x: ops.sum(L.Dense(3, name="c")(tokens(x)), 1),
    "padded": lambda x: ops.sum(
        ops.pad(units()(x), ((0, 0), (1, 0), (0, 0)), constant_values=1), -1
    ),
    "bias of heads": lambda x: ops.sum(
        L.EinsumDense("btc,cnh->btnh", (4, 6, 2), bias_axes="h", name="a")(x), 2
    ),
}
ZERO = {
    "relu": lambda x: ops.sum(ops.relu(units()(x)), -1),
    "scaled": lambda x: ops.sum(ops.tanh(units()(x) * 3.0) / 2.0, -1),
    "gated": lambda x: ops.sum(units()(x) * L.Dense(6, activation="sigmoid", name="b")(x), -1),
    "gated by a layer": lambda x: ops.sum(
        L.Multiply()([units()(x), L.Dense(6, activation="sigmoid", name="b")(x)]), -1
    ),
    "normed": lambda x: ops.sum(L.BatchNormalization()(half(x)), -1),
    "residual": lambda x: L.UnitNormalization()(
        L.Add()([t := units()(x), L.Dense(6, activation="relu", name="b")(t)])
    ),
    "dot": lambda x: L.Dot(2)([half(x), L.Dense(6, name="b")(x)]),
    "matmul": lambda x: ops.matmul(t := ops.relu(units()(x)), ops.transpose(t + 1.0, (0, 2, 1))),
    "joined": lambda x: ops.sum(L.Concatenate()([units()(x), x + 1.0]), -1),
    "attention": lambda x: L.Attention()([half(x), t := L.Dense(6, name="b")(x), t]),
    "gru": lambda x: ops.sum(L.GRU(6, name="a")(x), -1, keepdims=True),
    "depthwise": lambda x: ops.sum(
        L.DepthwiseConv1D(1, use_bias=False)(units(activation="sigmoid")(x)), -1
    ),
    "nested": lambda x: ops.sum(nested("relu")(units()(x)), -1),
    "masked": lambda x: ops.sum(ops.where(x[..., :1] > 0, units()(x), 0.0), -1),
}


def nested(activation="sigmoid"):
    x = keras.Input((4, 6), name="inner")
    return keras.Model(x, L.Activation(activation)(x), name="nested")


def summed(cases, case):
    return of(lambda x: end(ops.reshape(y := cases[case](x), (-1, int(np.prod(y.shape[1:]))))))


@pytest.mark.parametrize("case", SUMS)
def test_a_sum_over_units_that_are_not_zero_is_noted(case):
    group = found(summed(SUMS, case))
    assert group.free and any("changes" in text for text in group.changes)


@pytest.mark.parametrize("case", ZERO)
def test_a_sum_over_units_of_zeros_is_exact(case):
    group = found(summed(ZERO, case))
    assert group.free and not group.changes
