"""Which outputs an edit cannot change, as `kg.diff` says."""

import sys

import keras
from keras import layers

import keras_graft as kg


def around(flag):
    """A model with a nested one that knows a training mode and one that knows none."""
    i = keras.Input((4,), name="i")
    y = layers.Dropout(0.5, name="inner_drop")(i, training=False)
    inner = keras.Model(i, y, name="inner")
    encoder = keras.Model(i, layers.Dropout(0.5, name="drop")(inner(i)), name="encoder")
    plain = keras.Model(i, layers.ReLU(name="relu")(i), name="plain")
    x = keras.Input((4,), name="x")
    model = keras.Model(x, [encoder(x, training=flag), plain(x, training=flag)])
    return model, encoder, plain


def test_the_training_flag_of_a_nested_call_counts():
    for before, after in ((None, True), (True, False), (False, True)):
        model, encoder, plain = around(before)
        new = kg.replace(model, "encoder", lambda t, f=after, e=encoder: e(t, training=f))
        report = kg.diff(model, new)
        assert report.same_outputs == ("plain",) and report.other_outputs == ("encoder",)
    # What is inside takes no flag.
    new = kg.replace(model, "plain", lambda t: plain(t, training=True))
    assert kg.diff(model, new).other_outputs == ()


def test_opening_a_nested_call_changes_no_output():
    for flag in (None, True, False):
        model = around(flag)[0]
        assert kg.diff(model, kg.inline(model)).other_outputs == ()
        assert kg.diff(model, kg.inline(model, "encoder")).other_outputs == ()


def test_a_mask_that_a_nested_model_makes_is_read_outside():
    ids = keras.Input((6,), dtype="int32")
    embedding = layers.Embedding(9, 4, mask_zero=True, name="embedding")
    inner = keras.Model(ids, embedding(ids), name="inner")
    model = keras.Model(ids, layers.GRU(4, name="gru")(inner(ids)))
    assert kg.diff(model, kg.build(kg.read(model))).same_outputs == ("gru",)
    assert kg.diff(model, kg.inline(model)).same_outputs == ("gru",)
    new = kg.replace(model, "inner/embedding", layers.Embedding(9, 4, mask_zero=True))
    assert kg.diff(model, new).other_outputs == ("gru",)


def test_each_value_is_numbered_once(monkeypatch):
    diff = sys.modules["keras_graft.look.numbers"]
    x = keras.Input((4,))
    model = keras.Model(x, layers.Add()([layers.Activation("relu")(x) for _ in range(30)]))
    frozen, calls = diff.comparable, []
    monkeypatch.setattr(diff, "comparable", lambda *s: (calls.append(1), frozen(*s))[1])
    kg.diff(model, model)
    few = len(calls)
    calls.clear()
    x = keras.Input((4,))
    kg.diff(*[keras.Model(x, layers.Add()([layers.Activation("relu")(x) for _ in range(60)]))] * 2)
    assert len(calls) < 3 * few
