"""`MultiHeadAttention` takes masks off what it reads: for all that runs later, masks are gone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_graft as kg
from keras_graft.testing import assert_same_outputs


def make(early: bool) -> keras.Model:
    ids = keras.Input((4,), dtype="int32", name="ids")
    e = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    inner = keras.Input((4, 3), name="inner")
    y = layers.Add(name="add")([inner, layers.Dense(3, name="d")(inner)])
    nested = keras.Model(inner, y, name="nested")
    a = layers.MultiHeadAttention(1, 2, name="att")(layers.Dropout(0.1, name="drop")(e), e)
    if early:  # a longer way to the outputs: Keras runs it first
        a = layers.Dense(3, name="last")(layers.Dense(3, name="long")(a))
    y = layers.GlobalAveragePooling1D(name="mean")(nested(e))
    return keras.Model(ids, [y, a], name="m")


def node(model, name):
    return next(n for n in kg.read(model).nodes if n.label == name)


def labels(node, values):
    return [node.graph.label(value) for value in values]


IDS = np.array([[1, 2, 0, 0], [1, 0, 0, 0]])


def test_a_model_that_puts_a_mask_on_again_is_opened():
    model = make(early=True)
    for new in (kg.inline(model), kg.extract(model, ("nested/d", "att"))):
        # The attention reads copies with masks of their own, so that `d` finds that of the tensor.
        assert [n.kind for n in node(new, "att").producers[:2]] == ["WithMask"] * 2
    assert_same_outputs(model, kg.inline(model), IDS)
    assert_same_outputs(model, kg.build(kg.read(model)), IDS)


def translator(kind="attention"):
    """Return an encoder and a decoder of two layers: both attend to what the encoder gives."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    words = keras.Input((3,), dtype="int32", name="words")
    encoded = layers.Embedding(9, 4, mask_zero=True, name="embed")(ids)
    x = layers.Embedding(9, 4, name="out")(words)
    x = layers.MultiHeadAttention(2, 2, name="att1")(x, encoded)
    x = layers.LayerNormalization(name="norm1")(x)
    if kind == "attention":
        x = layers.MultiHeadAttention(2, 2, name="att2")(x, encoded)
    else:  # Keras counts masked steps in the sum of `Add`
        x = layers.Add(name="sum")(
            [encoded, layers.MultiHeadAttention(2, 2, name="att2")(encoded, x)]
        )
        x = layers.LayerNormalization(name="norm2")(x)
        x = layers.GRU(3, name="gru")(x)
    return keras.Model([ids, words], x, name="translator")


DATA = [np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]]), np.array([[1, 2, 3], [4, 5, 6]])]


@pytest.mark.parametrize("kind", ["attention", "sum"])
def test_the_second_attention_to_one_tensor_finds_no_mask(kind):
    model = translator(kind)
    second = node(model, "att2")
    assert labels(second, second.maskless) == ["embed"]
    first = node(model, "att1")
    (mask,) = labels(first, dict(first.hidden).values())
    assert mask.startswith("not_equal")
    first, rest = kg.split(model, at="norm1", complete=True)
    # The mask crosses only where something finds it: the GRU has it as an argument.
    assert len(rest.inputs) == (2 if kind == "attention" else 3)
    given = first(DATA)
    expected = ops.convert_to_numpy(model(DATA))
    np.testing.assert_array_equal(ops.convert_to_numpy(rest(given)), expected)


@pytest.mark.parametrize("kind", ["attention", "sum"])
def test_an_edit_keeps_which_call_finds_a_mask(kind, tmp_path):
    model = translator(kind)
    expected = ops.convert_to_numpy(model(DATA))
    for place in ("embed", "norm1", "out", "att2"):
        new = kg.insert(model, layers.Identity(name="same"), after=place)
        np.testing.assert_array_equal(ops.convert_to_numpy(new(DATA)), expected)
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(DATA)), expected)


def test_of_two_calls_of_one_attention_the_one_that_runs_first_finds_the_mask():
    ids = keras.Input((4,), dtype="int32", name="ids")
    x = layers.Embedding(3, 3, mask_zero=True, name="embed")(ids)
    attention = layers.MultiHeadAttention(1, 2, name="att")
    model = keras.Model(ids, [attention(x, x), attention(x, x)], name="m")
    # Keras runs the second call first.
    assert [len(n.maskless) for n in kg.read(model).nodes if n.kind == "MultiHeadAttention"] == [
        1,
        0,
    ]
    for new in (kg.inline(model), kg.insert(model, layers.Identity(), after="embed")):
        assert_same_outputs(model, new, IDS)


def test_a_nested_block_gives_the_mask_of_what_it_gives():
    ids = keras.Input((7,), dtype="int32", name="ids")
    h = layers.Embedding(9, 8, mask_zero=True, name="embed")(ids)
    h = layers.Dropout(0.2, name="drop")(h)
    a = layers.MultiHeadAttention(2, 4, name="att")(h, h)
    h = layers.LayerNormalization(name="norm")(layers.Add(name="sum")([h, a]))
    model = keras.Model(ids, layers.LSTM(5, name="lstm")(h), name="m")
    nested = kg.nest(model, "drop", "norm", name="block")
    # The mask is another output of the same call: it was read as two calls.
    assert [n.label for n in kg.read(nested).nodes if n.nested] == ["block"]
    x = np.array([[1, 2, 3, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0, 0]])
    for new in (nested, kg.inline(nested)):
        assert_same_outputs(model, new, x)


@pytest.mark.parametrize("kind", ["attention", "sum"])
def test_what_comes_in_finds_the_masks_that_the_call_there_finds(kind):
    model = translator(kind)
    expected = ops.convert_to_numpy(model(DATA))
    for name in [n.label for n in kg.read(model).nodes if isinstance(n.operation, keras.Layer)]:
        new = kg.replace(model, name, lambda node: node.operation)
        np.testing.assert_array_equal(ops.convert_to_numpy(new(DATA)), expected, name)
        if name != "embed":
            new = kg.insert(
                model,
                layers.Identity(name="same"),
                before=name if "norm" in name or name in ("gru", "out") else f"{name}:0",
            )
            np.testing.assert_array_equal(ops.convert_to_numpy(new(DATA)), expected, name)


def test_a_nested_model_in_place_of_a_call_that_finds_no_mask():
    model = translator()
    expected = ops.convert_to_numpy(model(DATA))
    block = keras.Model(
        inner := [keras.Input((None, 4)), keras.Input((None, 4))],
        model.get_layer("att2")(*inner),
        name="block",
    )
    new = kg.replace(model, "att2", lambda q, v: block([q, v]))
    for result in (new, kg.inline(new)):
        np.testing.assert_array_equal(ops.convert_to_numpy(result(DATA)), expected)


@pytest.mark.parametrize("kind", ["attention", "sum"])
def test_a_nested_model_that_finds_no_mask(kind):
    model = translator(kind)
    expected = ops.convert_to_numpy(model(DATA))
    for block in ("att2", ["norm1", "att2"]):
        nested = kg.remat(model, block)
        for new in (nested, kg.inline(nested), kg.build(kg.read(nested))):
            np.testing.assert_array_equal(ops.convert_to_numpy(new(DATA)), expected)


def test_a_call_that_would_run_first_reads_a_copy_without_the_mask():
    model = translator()
    # Alone, the second attention runs first: nothing takes the mask off before.
    new = kg.rewire(model, {"norm1": "out"})
    assert [n.label for n in node(new, "att2").producers] == ["out", "copy"]
    embedded, words = (model.get_layer(n)(x) for n, x in zip(("embed", "out"), DATA, strict=True))
    expected = model.get_layer("att2")(words, ops.copy(embedded))
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (new(DATA), expected)))


def test_a_model_before_the_attention_is_opened():
    model = make(early=False)
    flat = kg.inline(model)
    assert all(node.nested is None for node in kg.read(flat).nodes)
    assert_same_outputs(model, flat, IDS)
