"""Which outputs an edit cannot change, as `kg.diff` says."""

import re
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


def changed(report):
    return [(c.name, c.what) for c in report.changed]


def test_it_says_where():
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b")(a)
    model = keras.Model(x, layers.Add(name="add")([a, b]), name="m")
    report = kg.diff(model, kg.insert(model, layers.Dropout(0.5, name="drop"), between=("a", "b")))
    assert [(n.name, n.kind, n.where) for n in report.new] == [
        ("drop", "Dropout", "between a and b")
    ]
    assert "drop       Dropout       0  between a and b" in str(report)
    assert report.to_dict()["new"][0]["where"] == "between a and b"
    report = kg.diff(model, kg.insert(model, layers.ReLU(name="r"), after="a"))
    assert report.new[0].where == "after a, before b and add"
    report = kg.diff(model, kg.insert(model, layers.ReLU(name="r"), after="add"))
    assert report.new[0].where == "after add, before the output"
    report = kg.diff(model, kg.remove(model, "b"))
    assert report.dropped[0].where == "between a and add"
    many = keras.Model(x, [layers.Dense(2, name=f"d{i}")(a) for i in range(5)])
    report = kg.diff(many, kg.insert(many, layers.ReLU(name="r"), after="a"))
    assert re.fullmatch(r"after a, before d\d, d\d and 3 more", report.new[0].where)


def test_it_says_where_across_the_borders_of_nested_models():
    inner = keras.Input((4,), name="inner")
    encoder = keras.Model(inner, layers.Dense(4, name="d")(inner), name="encoder")
    x = keras.Input((4,), name="x")
    y = layers.Dense(2, name="out")(encoder(layers.ReLU(name="act")(x)))
    model = keras.Model(x, y, name="m")
    report = kg.diff(model, kg.insert(model, layers.Dropout(0.5, name="drop"), before="encoder/d"))
    assert (
        report.new[0].name == "encoder/drop" and report.new[0].where == "between act and encoder/d"
    )
    found = report.changes()
    assert found.of_new == {"act": "kept", "encoder": "changed", "encoder/drop": "new",
                            "encoder/d": "kept", "out": "kept"}  # fmt: skip
    assert found.of_old["encoder"] == "changed" and found.pairs["encoder/d"] == "encoder/d"
    assert found.may_differ == {"encoder", "encoder/drop", "encoder/d", "out"}
    report = kg.diff(model, kg.inline(model))
    assert report.changes().of_old == {"act": "kept", "encoder": "dropped", "encoder/d": "kept",
                                       "out": "kept"}  # fmt: skip
    assert set(report.changes().of_new.values()) == {"kept"} and report.changed == ()


def test_calls_that_read_something_else_are_changed():
    x = keras.Input((4,), name="x")
    a, b = (layers.Dense(4, name=n)(x) for n in "ab")
    model = keras.Model(x, [a, layers.ReLU(name="act")(b)], name="m")
    report = kg.diff(model, kg.rewire(model, {"b": "a"}))
    assert changed(report) == [("act", "reads a, before b")]
    assert [layer.name for layer in report.dropped] == ["b"]
    assert report.changes().of_new["act"] == "changed"


def test_arguments_and_shapes_of_a_call_are_told():
    model, encoder, _ = around(None)
    new = kg.replace(model, "encoder", lambda t: encoder(t, training=True))
    assert changed(kg.diff(model, new)) == [("encoder", "training=True, before None")]
    layer = layers.GlobalAveragePooling1D(name="mean")
    first, second = keras.Input((4, 3), name="x"), keras.Input((4, 5), name="x")
    report = kg.diff(keras.Model(first, layer(first)), keras.Model(second, layer(second)))
    assert changed(report) == [("mean", "output (?, 5) float32, before (?, 3) float32")]


def test_one_call_more_of_a_shared_layer_is_new():
    x = keras.Input((4,), name="x")
    layer = layers.Dense(4, name="d")
    once = keras.Model(x, layer(x))
    twice = keras.Model(x, layer(layer(x)))
    report = kg.diff(once, twice)
    assert report.new == report.dropped == ()
    assert report.changes().of_new == {"d#0": "kept", "d#1": "new"}
    assert report.changes().of_old == {"d": "kept"}
    assert kg.diff(twice, once).changes().of_old == {"d#0": "kept", "d#1": "dropped"}
