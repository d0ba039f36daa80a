"""prune: what is not exact is noted or protected, and what a call is given is cut too."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from zeroed import channels_of, cleared, same, scrambled, some_of

import keras_graft as kg


def of(function, shape=(4, 4)):
    x = keras.Input(shape, name="x")
    return scrambled(keras.Model(x, function(x)))


def end(y):
    return L.Dense(2, name="end")(L.Flatten(name="flat")(y))


def units(n=6, **more):
    return L.Dense(n, name="a", **more)


def tokens(x):
    """Units of a layer as the tokens of a sequence."""
    return L.Permute((2, 1))(units()(x))


def found(model):
    """Return the group of "a", after what it says is seen to be true: exact, noted or protected."""
    group = kg.group(model, "a")
    free = some_of(group)
    if not free:
        with pytest.raises(kg.EditError, match="cannot be pruned"):
            kg.prune(model, {"a": 1})
        return group
    cleared(group, free)
    small = kg.prune(model, {"a": channels_of(group, free)})
    if group.changes:
        x = np.ones((2, *model.input_shape[1:]), "float32")
        assert small(x).shape == model(x).shape
        with pytest.raises(AssertionError):
            same(model, small)  # a note where nothing changes would be wrong too
    else:
        same(model, small)
    return group


MASK = np.ones((1, 6, 4), "bool")
ATTENTION = {
    "mask": lambda x: L.MultiHeadAttention(2, 2)(tokens(x), x, attention_mask=ops.ones_like(MASK)),
    "array": lambda x: L.MultiHeadAttention(2, 2)(tokens(x), x, attention_mask=MASK),
    "self": lambda x: L.MultiHeadAttention(2, 2)(t := tokens(x), t),
    "grouped": lambda x: L.GroupQueryAttention(2, 2, 2)(t := tokens(x), t),
    "plain": lambda x: L.Attention()([t := tokens(x), t]),
    "additive": lambda x: L.AdditiveAttention()([t := tokens(x), t]),
    "causal": lambda x: L.MultiHeadAttention(2, 2)(tokens(x), x, use_causal_mask=True),
    "plain causal": lambda x: L.Attention()([tokens(x), x], use_causal_mask=True),
    "keys": lambda x: L.MultiHeadAttention(2, 2)(x, tokens(x)),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_tokens_that_are_attended_to_stay(case):
    group = found(of(lambda x: end(ATTENTION[case](x))))
    assert not group.free


def test_tokens_of_a_query_go_with_its_scores():
    x = keras.Input((6, 6), name="x")  # as many steps as units: Keras announces square scores
    y, scores = L.MultiHeadAttention(2, 2)(tokens(x), x, return_attention_scores=True)
    other = L.Permute((2, 1))(L.Dense(6, name="b")(x))
    z, more = L.Attention()([other, x], return_attention_scores=True)
    parts = [L.Permute((2, 1))(y), ops.mean(scores, 3), L.Permute((2, 1))(z), ops.mean(more, 2)]
    parts = [L.Dense(2, name=f"e{i}")(p) for i, p in enumerate(parts)]
    model = scrambled(keras.Model(x, parts))
    assert not found(model).changes
    small = kg.prune(model, {"a": [0], "b": [1, 2]})
    assert [small.get_layer(f"e{i}").kernel.shape[0] for i in range(4)] == [5, 5, 4, 4]
    small(np.ones((2, 6, 6)))


def test_heads_go_with_a_mask_for_each_head():
    def model(make):
        x = keras.Input((4, 4), name="x")
        y = L.MultiHeadAttention(3, 2, name="a")(x, x, attention_mask=make(x))
        return scrambled(keras.Model(x, end(y)))

    def of_values(x):
        y = L.Dense(12, name="scores")(x)
        return ops.transpose(ops.reshape(y, (-1, 4, 3, 4)), (0, 2, 1, 3)) > 0.3

    small = kg.prune(model(of_values), {"a": [1]})
    assert small.get_layer("scores").units == 8
    assert small(np.ones((2, 4, 4))).shape == (2, 2)
    with pytest.raises(kg.EditError, match="an array among its arguments has an axis of size 3"):
        kg.prune(model(lambda x: np.ones((1, 3, 4, 4), "bool")), {"a": [1]})


GIVEN = {
    "states": lambda x: L.GRU(6, name="a")(x, initial_state=np.ones((1, 6), "float32")),
    "joined": lambda x: ops.concatenate([units()(x), np.ones((1, 4, 6), "float32")], 1),
    "added": lambda x: units()(x) + np.ones(6, "float32"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_arrays_among_the_arguments_stop(case):
    assert not found(of(lambda x: end(GIVEN[case](x)))).free


STEPS = {
    "LSTM": lambda x: L.LSTM(3, return_sequences=True)(tokens(x)),
    "GRU": lambda x: L.GRU(3, return_sequences=True)(tokens(x)),
    "RNN": lambda x: L.RNN(L.SimpleRNNCell(3), return_sequences=True)(tokens(x)),
    "Bidirectional": lambda x: L.Bidirectional(L.GRU(3, return_sequences=True))(tokens(x)),
    "GroupNormalization": lambda x: L.GroupNormalization(2)(tokens(x)),
    "last step": lambda x: L.LSTM(3)(tokens(x)),
}


@pytest.mark.parametrize("case", STEPS)
def test_what_runs_along_the_steps_says_so(case):
    group = found(of(lambda x: end(STEPS[case](x))))
    assert group.changes or not group.free
    if group.free:
        assert "steps" in group.changes[0] or "mean over its positions" in group.changes[0]


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
    "count": lambda x: ops.cast(ops.count_nonzero(half(x), -1), "float32"),
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


CF = "channels_first"
WRAPPED = {
    "Flatten": lambda x: L.TimeDistributed(L.Flatten())(wide(x)),
    "Flatten, channels first": lambda x: L.TimeDistributed(L.Flatten(data_format=CF))(wide(x, 1)),
    "PReLU": lambda x: L.TimeDistributed(L.PReLU())(units()(x)),
    "Reshape": lambda x: L.TimeDistributed(L.Reshape((3, 2)))(units()(x)),
    "Permute": lambda x: L.TimeDistributed(L.Permute((2, 1)))(wide(x)),
    "EinsumDense": lambda x: L.TimeDistributed(L.EinsumDense("abc,cd->abd", (2, 6)), name="a")(
        L.Reshape((4, 2, 2))(x)
    ),
    "Norm": lambda x: L.TimeDistributed(L.BatchNormalization(axis=1))(wide(x, 1)),
    "twice": lambda x: L.TimeDistributed(L.TimeDistributed(L.PReLU()))(wide(x)),
    "steps": lambda x: L.TimeDistributed(L.Dense(3, name="inner"))(tokens(x)),
}


def wide(x, at=2):
    """Units of a layer in images of one step each: (steps, 2, units), or (steps, units, 2)."""
    y = L.Reshape((4, 2, 6))(L.Concatenate()([units()(x), L.Dense(6, name="b")(x)]))
    return y if at == 2 else L.Permute((1, 3, 2))(y)


@pytest.mark.parametrize("case", WRAPPED)
def test_layers_for_each_step(case):
    group = found(of(lambda x: end(WRAPPED[case](x))))
    assert group.free and not group.changes


def test_the_two_numbers_of_an_output_shape():
    def model(x):
        q = L.Dense(4, name="a")(x)
        return end(L.MultiHeadAttention(2, 2, output_shape=(4, 3), name="att")(q, x))

    assert found(of(model, (5, 3))).free


@pytest.mark.parametrize(
    "function",
    [
        lambda h: ops.where([True, False] * 3, h, 0.0),
        lambda h: ops.clip(h, [-1.0, -2.0, -3.0, -1.0, -2.0, -3.0], 6),
        lambda h: ops.stack([h, np.ones((1, 4, 6), "float32")], 1),
    ],
)
def test_lists_of_numbers_stop(function):
    assert not found(of(lambda x: end(function(units()(x))))).free


def test_constants_before_the_units():
    x = keras.Input(batch_shape=(2, 4), name="x")
    y = ops.concatenate([np.ones((2, 3), "float32"), units()(x)], -1)
    assert not found(scrambled(keras.Model(x, L.Dense(2)(y)))).free


@keras.saving.register_keras_serializable("exact")
class OwnCell(L.SimpleRNNCell):
    pass


@pytest.mark.once
def test_a_cell_without_a_rule_is_named():
    group = found(of(lambda x: L.Dense(2)(L.RNN(OwnCell(5), name="r")(units()(x)))))
    assert "RNN 'r': there is no rule for its cell" in group.protected[0]
