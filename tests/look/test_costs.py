"""`kg.costs`: rows by call, block, stage and cut, and what is said where lengths are open."""

import json
import re

import keras
import models
import pytest

import keras_graft as kg
from keras_graft.costs.formula import Formula

pytestmark = pytest.mark.once


def test_rows_of_each_kind_add_up_to_the_whole():
    model = keras.applications.ResNet50(weights=None)
    whole = kg.costs(model)
    assert whole.total.multiply_adds == 3_857_973_248  # as He et al., 2015, round it: 3.8e9
    assert whole.total.parameters == model.count_params()
    assert whole.total.weight_bytes == 4 * model.count_params()
    for by in ("node", "stage", "block"):
        rows = kg.costs(model, by=by).rows
        assert sum(row.multiply_adds for row in rows) == whole.total.multiply_adds
        assert sum(row.operations for row in rows) == whole.total.operations
        assert sum(row.activation_bytes for row in rows) == whole.total.activation_bytes
        assert sum(row.share for row in rows) == pytest.approx(1)
    stages = [stage.name for stage in kg.stages(model)]
    names = [row.name.partition(" ")[2] for row in kg.costs(model, by="stage").rows]
    assert names[: len(stages)] == stages
    cuts = kg.costs(model, by="cut")
    shares = [cut.compute_below for cut in kg.cuts(model)]
    assert [row.share for row in cuts.rows[:-1]] == shares == sorted(shares)
    assert cuts.rows[-1].multiply_adds == whole.total.multiply_adds
    advised = [row.compute_saved for row in kg.features.advise(model, 10).rows]
    assert advised == shares


def test_a_batch_multiplies_what_is_computed_and_not_what_is_held():
    one, many = kg.costs(models.residual()).total, kg.costs(models.residual(), batch=7).total
    assert many.multiply_adds == 7 * one.multiply_adds and many.operations == 7 * one.operations
    assert many.activation_bytes == 7 * one.activation_bytes
    assert (many.parameters, many.weight_bytes) == (one.parameters, one.weight_bytes)
    assert one.flops == 2 * one.multiply_adds + one.operations


def test_open_lengths_give_formulas_that_agree_with_numbers():
    ids = keras.Input((None,), dtype="int32")
    h = keras.layers.Embedding(50, 16)(ids)
    h = keras.layers.MultiHeadAttention(2, 8)(h, h)
    model = keras.Model(ids, keras.layers.LSTM(4)(h))
    formula = kg.costs(model).total.multiply_adds
    assert str(formula) == "1,344 x length + 32 x length^2"
    for length in (1, 10, 33):
        given = kg.costs(model, input_shape=(length,)).total.multiply_adds
        assert given == formula.at(length)
    image = keras.Input((None, None, 3))
    h = keras.layers.Conv2D(8, 3, strides=2, padding="same")(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 1)(h))
    formula = kg.costs(model).total.multiply_adds
    assert isinstance(formula, Formula) and str(formula) == "62 x height x width"
    assert kg.costs(model, input_shape=(32, 32, 3)).total.multiply_adds == formula.at(32)
    assert "62 x height x width" in json.dumps(kg.costs(model).to_dict())


def test_nested_models_fold_and_open_and_take_the_shape_of_their_call():
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Flatten(name="flat")(inner(x)))
    folded, opened = kg.costs(model), kg.costs(model, depth=2)
    assert [row.name for row in folded.rows] == ["inner", "flat"]
    assert [row.name for row in opened.rows] == ["inner", "inner/conv", "flat"]
    assert [row.name for row in kg.costs(model, depth=None).rows] == ["inner/conv", "flat"]
    assert folded["inner"].multiply_adds == opened["inner/conv"].multiply_adds == 36 * 4 * 27


def test_a_shared_layer_computes_twice_and_is_held_once():
    x = keras.Input((6, 4))
    dense = keras.layers.Dense(4, name="shared")
    found = kg.costs(keras.Model(x, dense(dense(x))))
    assert found.total.multiply_adds == 2 * 6 * 16 and found.total.parameters == 20
    assert [row.parameters for row in found.rows] == [20, 20]


@pytest.mark.parametrize("make", models.ALL, ids=lambda make: make.__name__)
def test_every_model_is_counted_and_left_as_it_was(make, tmp_path):
    from donor import unchanged

    model = make()
    with unchanged(model, tmp_path):
        found = kg.costs(model)
    assert found.total.parameters == model.count_params()
    json.dumps(found.to_dict())
    assert str(found).startswith(model.name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"by": "layer"}, 'by= is "node", "block", "stage" or "cut", got \'layer\''),
        ({"batch": 0}, "batch= says for how many samples, 1 or more; got 0"),
        ({"depth": 0}, "depth= says how many levels are shown, 1 or more, or None for all; got 0"),
        ({"most": 0}, "most= says how many rows to print"),
        ({"input_shape": (5, 5)}, "fits no input"),
    ],
    ids=str,
)
def test_refusals(how, words):
    with pytest.raises(kg.SelectionError, match=re.escape(words)):
        kg.costs(models.residual(), **how)
