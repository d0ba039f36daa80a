"""`kg.diff` says how the costs changed: in all, and for each call that changed."""

import json

import keras
import pytest
from keras import layers, ops

import keras_graft as kg

pytestmark = pytest.mark.once


def network():
    x = keras.Input((8, 8, 3), name="x")
    h = layers.Conv2D(8, 3, padding="same", name="one")(x)
    h = layers.ReLU(name="relu")(h)
    h = layers.Conv2D(8, 3, padding="same", name="two")(h)
    h = layers.GlobalAveragePooling2D(name="pool")(h)
    return keras.Model(x, layers.Dense(4, name="out")(h), name="net")


def test_totals_and_parts_are_those_of_costs():
    model = network()
    small = kg.prune(model, {"one": 4})
    found = kg.diff(model, small, by="value").costs
    before, now = kg.costs(model), kg.costs(small)
    assert (found.old, found.new) == (before.total, now.total)
    assert found.change("multiply_adds") == now.total.multiply_adds / before.total.multiply_adds - 1
    assert found.change("parameters") == small.count_params() / model.count_params() - 1
    assert [part.name for part in found.parts] == ["two", "one", "relu"]
    for part in found.parts:
        assert (part.old, part.new) == (before[part.name], now[part.name]), part.name
    assert (
        sum(p.new.multiply_adds - p.old.multiply_adds for p in found.parts)
        == now.total.multiply_adds - before.total.multiply_adds
    )


def test_new_and_dropped_calls():
    model = network()
    edited = kg.insert(model, lambda node: layers.Dense(8, name="more"), after="pool")
    edited = kg.remove(edited, "relu")
    report = kg.diff(model, edited)
    parts = {part.name: part for part in report.costs.parts}
    assert parts["more"].old is None and parts["more"].new.multiply_adds == 64
    assert parts["relu"].new is None and parts["relu"].old.operations == 8 * 8 * 8
    assert list(parts) == ["more", "relu"]
    text = str(report)
    assert "cost of one sample" in text and "+" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["more", "64", "72", "32", "B"] in lines
    data = json.loads(json.dumps(report.to_dict()["costs"]))
    assert data["parts"][0]["old"] is None and data["parts"][0]["new"]["multiply_adds"] == 64
    assert data["change"]["multiply_adds"] == report.costs.change("multiply_adds") > 0


def test_the_same_costs_are_not_printed():
    model = network()
    assert "cost of one sample" not in str(kg.diff(model, kg.clone(model), by="value"))
    assert kg.diff(model, model).costs.parts == ()


def test_inside_nested_models_and_with_open_lengths():
    x = keras.Input((None, 8), name="x")
    inner = keras.Model(x, layers.Dense(8, name="in")(x), name="inner")
    y = keras.Input((None, 8), name="y")
    model = keras.Model(y, layers.Dense(4, name="out")(inner(y)), name="open")
    edited = kg.insert(model, lambda node: layers.Dense(8, name="twice"), after="inner/in")
    found = kg.diff(model, edited).costs
    assert [part.name for part in found.parts] == ["inner/twice"]
    assert str(found.parts[0].new.multiply_adds) == "64 x length"
    assert found.change("multiply_adds") == pytest.approx(64 / 96)
    json.dumps(found.to_dict())


def test_what_is_not_known_says_so():
    model = network()
    edited = kg.insert(model, lambda t: ops.sort(t), after="pool")
    found = kg.diff(model, edited).costs
    (part,) = found.parts
    assert part.new.operations is None and "operations" in found.new.at_least
    assert "at least" in str(kg.diff(model, edited))
