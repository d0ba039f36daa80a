"""prune: what a call is given shrinks too, and what is not known is protected."""

import keras
import numpy as np
import pytest
from exactness import end, found, of, tokens, units
from keras import layers as L
from keras import ops
from zeroed import channels_of, cleared, same, scrambled

import keras_graft as kg

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


@keras.saving.register_keras_serializable("exact")
class OwnArray(keras.initializers.Initializer):
    def __init__(self, numbers):
        self.numbers = np.asarray(numbers)

    def __call__(self, shape, dtype=None):
        return ops.cast(ops.zeros(shape) + ops.convert_to_tensor(self.numbers, "float32"), dtype)

    def get_config(self):
        return {"numbers": self.numbers.tolist()}


TABLE = np.arange(42.0).reshape(7, 6)
FIXED = {
    "embedding": lambda c: L.Embedding(7, 6, embeddings_initializer=c(TABLE), name="a"),
    "bias": lambda c: units(bias_initializer=c(np.arange(6.0))),
    "lstm": lambda c: L.LSTM(
        6, kernel_initializer=c(np.arange(96.0).reshape(4, 24)), return_sequences=True, name="a"
    ),
    "wrapped": lambda c: L.TimeDistributed(
        L.Dense(6, bias_initializer=c(np.arange(6.0))), name="a"
    ),
}


@pytest.mark.parametrize("case", FIXED)
@pytest.mark.parametrize("kind", [keras.initializers.Constant, OwnArray])
def test_an_initializer_with_an_array(case, kind, tmp_path):
    x = keras.Input((4,) if case == "embedding" else (4, 4), name="x")
    model = keras.Model(x, end(FIXED[case](kind)(x)))
    small = kg.prune(model, {"a": [1, 4]})
    layer = small.get_layer("a")
    if case == "embedding":
        np.testing.assert_array_equal(
            ops.convert_to_numpy(layer.embeddings), np.delete(TABLE, [1, 4], 1)
        )
    if case == "embedding" and kind is not OwnArray:
        np.testing.assert_array_equal(
            ops.convert_to_numpy(layer.embeddings_initializer((7, 4))), np.delete(TABLE, [1, 4], 1)
        )
    small.save(tmp_path / "small.keras")
    same(small, keras.saving.load_model(tmp_path / "small.keras"), 1e-6)
    cleared(group := kg.group(model, "a"), [2])
    same(model, kg.prune(model, {"a": channels_of(group, [2])}))
