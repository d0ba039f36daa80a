"""`kg.diff(old, new, by="value")`: a model and its copy, and what differs between two models."""

import functools

import keras
import numpy as np
import pytest
from architectures import application, backbones
from keras import layers
from models import ALL, masked, mixed, residual, siamese

import keras_graft as kg
from keras_graft.model import same_values


def assert_same(report):
    assert report.by == "value" and report.new == report.dropped == report.changed == ()
    assert report.specs == report.renamed == report.unclear == report.other_outputs == ()
    assert report.new_parameters == report.dropped_parameters == report.changed_parameters == 0
    found = report.changes()
    assert {*found.of_old.values(), *found.of_new.values()} == {"kept"}
    assert not found.may_differ


def chain(names, units=4, seed=0):
    keras.utils.set_random_seed(seed)
    x = y = keras.Input((4,), name="x")
    for name in names:
        y = layers.Dense(units, name=name)(y)
    return keras.Model(x, y, name="chain")


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_saved_and_loaded_model_is_the_same(make, tmp_path):
    model = make()
    model.save(tmp_path / "m.keras")
    assert_same(kg.diff(model, tmp_path / "m.keras"))
    assert_same(kg.diff(str(tmp_path / "m.keras"), str(tmp_path / "m.keras")))
    assert_same(kg.diff(model, kg.clone(model), by="value"))


@pytest.mark.once
@pytest.mark.parametrize("name", ["ResNet50", "ConvNeXtTiny"])
def test_a_saved_and_loaded_architecture_is_the_same(name, tmp_path):
    model = application(name)
    model.save(tmp_path / "m.keras")
    report = kg.diff(model, tmp_path / "m.keras")
    assert_same(report)
    assert report.shared_parameters == model.count_params()


@pytest.mark.once
@pytest.mark.parametrize("name", ["Llama", "T5", "Whisper", "Gemma", "Albert"])
def test_a_saved_and_loaded_transformer_is_the_same(name, tmp_path):
    pytest.importorskip("keras_hub")
    model = backbones()[name]()
    model.save(tmp_path / "m.keras")
    assert_same(kg.diff(model, tmp_path / "m.keras"))


def language(tied=True):
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 4, mask_zero=True, name="embedding")(ids)
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(ids, layers.Dense(11, name="lm_head")(x), name="language")
    return (
        kg.tie(model, "lm_head/kernel", "embedding/embeddings", transform="transpose")
        if tied
        else model
    )


def test_a_tied_model_keeps_its_tie_and_a_lost_one_is_told(tmp_path):
    model = language()
    model.save(tmp_path / "m.keras")
    report = kg.diff(model, tmp_path / "m.keras")
    assert_same(report)
    assert len(report.ties_kept) == 1 and report.ties_gone == report.ties_new == ()
    loose = kg.untie(kg.clone(model), "lm_head/kernel")
    assert kg.diff(model, loose, by="value").ties_gone == report.ties_kept


def test_other_values_are_told_with_the_largest_difference():
    model = residual()
    other = kg.clone(model)
    kernel = other.get_layer("conv1").kernel
    values = np.array(keras.ops.convert_to_numpy(kernel))
    values[0, 0, 0, 0] += 0.5
    kernel.assign(values)
    report = kg.diff(model, other, by="value")
    (changed,) = report.changed
    assert (changed.name, changed.kind, changed.what) == (
        "conv1", "Conv2D", "kernel differs by up to 0.5",
    )  # fmt: skip
    assert report.changed_parameters == values.size and report.other_outputs == ("out",)
    assert report.shared_parameters == model.count_params() - values.size
    found = report.changes()
    assert found.of_new["conv1"] == found.of_old["conv1"] == "changed"
    assert found.of_new["conv0"] == "kept"
    assert "conv1" in found.may_differ and "add0" not in found.may_differ
    assert "changed           1" in str(report).replace("  ", " " * 2)


def test_nan_equals_nan_and_nothing_else():
    model = chain("ab")
    kernel = model.get_layer("a").kernel
    values = np.array(keras.ops.convert_to_numpy(kernel))
    values[0, 0] = np.nan
    kernel.assign(values)
    other = kg.clone(model)
    assert_same(kg.diff(model, other, by="value"))
    values[0, 0] = 0
    other.get_layer("a").kernel.assign(values)
    (changed,) = kg.diff(model, other, by="value").changed
    assert changed.what == "kernel 1 NaN on one side"


def test_a_large_weight_is_compared_in_chunks(monkeypatch):
    monkeypatch.setattr(same_values, "_CHUNK", 8)
    seen = []
    numpy = same_values._numpy
    monkeypatch.setattr(
        same_values, "_numpy", lambda v: (seen.append(int(np.prod(v.shape))), numpy(v))[1]
    )
    model = chain("ab", units=30)
    assert_same(kg.diff(model, kg.clone(model), by="value"))
    assert max(seen) <= 30  # a row of the kernel of `b`, of 900 elements
    other = kg.clone(model)
    values = np.array(keras.ops.convert_to_numpy(other.get_layer("b").kernel))
    values[-1, -1] += 3
    other.get_layer("b").kernel.assign(values)
    assert "up to 3" in kg.diff(model, other, by="value").changed[0].what


def test_another_dtype_is_told_also_where_the_values_are_equal():
    model = chain("a")
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    half = chain("a")
    half = keras.Model(model.inputs, layers.Dense(4, dtype="float16", name="a")(model.inputs[0]))
    for weight in half.weights:
        weight.assign(np.ones(weight.shape))
    (changed,) = kg.diff(model, half, by="value").changed
    assert "kernel float16, before float32, equal values" in changed.what
    assert (
        "dtype " in changed.what and "output (?, 4) float16, before (?, 4) float32" in changed.what
    )


def test_another_configuration_is_told():
    def make(**kwargs):
        x = keras.Input((4,), name="x")
        return keras.Model(x, layers.Activation(name="act", **kwargs)(x))

    report = kg.diff(make(activation="relu"), make(activation="gelu"), by="value")
    assert report.changed[0].what == 'activation "gelu", before "relu"'
    assert report.other_outputs == ("act",)


def test_a_flag_changes_no_output_except_of_batch_normalization():
    model = residual()
    other = kg.clone(model)
    other.get_layer("conv1").trainable = False
    report = kg.diff(model, other, by="value")
    assert report.changed[0].what == "trainable false, before true"
    assert report.same_outputs == ("out",)
    other.get_layer("bn1").trainable = False
    assert kg.diff(model, other, by="value").other_outputs == ("out",)


def test_names_of_keras_belong_together_by_their_values():
    """`dense_1` of one model need not be `dense_1` of another."""
    old = chain(["dense", "dense_1", "dense_2"])
    new = chain(["dense_1", "dense_2", "dense_3"])
    new.set_weights(old.get_weights())
    report = kg.diff(old, new, by="value")
    assert report.renamed == (("dense", "dense_1"), ("dense_1", "dense_2"), ("dense_2", "dense_3"))
    assert report.new == report.dropped == report.changed == () and report.same_outputs
    # With other values too: by their places.
    report = kg.diff(old, chain(["dense_1", "dense_2", "dense_3"], seed=1), by="value")
    assert len(report.renamed) == 3 and len(report.changed) == 3 and report.unclear == ()


def test_a_layer_put_into_the_middle_of_unnamed_ones_is_found():
    old = chain(["dense", "dense_1", "dense_2"])
    new = chain(["dense_4", "dense_5", "dense_6", "dense_7"])
    for mine, its in ((0, 0), (1, 1), (2, 3)):
        new.layers[its + 1].set_weights(old.layers[mine + 1].get_weights())
    report = kg.diff(old, new, by="value")
    assert [(x.name, x.where) for x in report.new] == [("dense_6", "between dense_5 and dense_7")]
    assert report.dropped == report.changed == ()


def test_layers_in_another_order_keep_their_names():
    old, new = chain("abc"), chain("acb")
    for name in "abc":
        new.get_layer(name).set_weights(old.get_layer(name).get_weights())
    report = kg.diff(old, new, by="value")
    assert [(c.name, c.what) for c in report.changed] == [
        ("c", "reads a, before b"), ("b", "reads c, before a"),
    ]  # fmt: skip
    assert report.new == report.dropped == () and report.changed_parameters == 0


def test_what_names_values_and_places_do_not_tell_is_unclear():
    def branches(names, seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((4,), name="x")
        return keras.Model(x, layers.Add(name="add")([layers.Dense(4, name=n)(x) for n in names]))

    report = kg.diff(branches("ab", 0), branches("cd", 1), by="value")
    assert report.renamed == (("a", "c"), ("b", "d")) and report.new == report.dropped == ()
    assert set(report.unclear) <= {"c", "d"}
    # Two branches that end in one sum are told apart by their place there; these are not.
    many = [
        keras.Model(m.inputs, [m.get_layer(n).output for n in names[::-1]])
        for m, names in ((branches("ab", 0), "ab"), (branches("cd", 1), "cd"))
    ]
    assert kg.diff(*many, by="value").renamed


def test_a_shared_layer_that_became_two_is_told():
    model = siamese()
    x, y = keras.Input((3,), name="l"), keras.Input((3,), name="r")
    layer = layers.Dense(3, name="both")
    shared = keras.Model([x, y], layers.Add(name="add")([layer(x), layer(y)]))
    twins = [layers.Dense(3, name=n) for n in ("both", "other")]
    apart = keras.Model([x, y], layers.Add(name="add")([twins[0](x), twins[1](y)]))
    for twin in twins:
        twin.set_weights(layer.get_weights())
    report = kg.diff(shared, apart, by="value")
    assert [layer.name for layer in report.new] == ["other"] and report.dropped == ()
    assert report.changes().of_old["both#1"] == "dropped"
    assert_same(kg.diff(model, kg.clone(model), by="value"))


def test_inputs_of_other_names_belong_together_by_their_place():
    def make(name):
        keras.utils.set_random_seed(0)
        x = keras.Input((4,), name=name)
        return keras.Model(x, layers.Dense(2, name="out")(x))

    assert_same(kg.diff(make("left"), make("right"), by="value"))


def test_what_is_inside_a_nested_model_is_compared():
    model = siamese()
    other = kg.replace(kg.clone(model), "encoder/d0", layers.Dense(5, name="new"))
    report = kg.diff(model, other, by="value")
    assert [x.name for x in report.new] == ["encoder#0/new"]
    assert [x.name for x in report.dropped] == ["encoder#0/d0"]
    assert report.changes().of_new["encoder#1"] == "changed"


def test_a_file_is_compared_by_value_alone(tmp_path):
    model = mixed()
    path = tmp_path / "m.keras"
    model.save(path)
    with pytest.raises(kg.SelectionError, match='by="value"') as caught:
        kg.diff(path, model, by="identity")
    assert "is a file" in str(caught.value)
    assert_same(kg.diff(path, model, by="value"))  # the way out
    with pytest.raises(kg.GraftError, match="There is no file"):
        kg.diff(model, tmp_path / "gone.keras")
    for word in ("Value", "", 3, ["value"]):
        with pytest.raises(kg.SelectionError, match='by= is "identity" or "value"'):
            kg.diff(model, model, by=word)


def test_a_legacy_file_is_compared(tmp_path):
    model = residual()
    model.save(tmp_path / "m.h5")
    assert_same(kg.diff(model, tmp_path / "m.h5"))


def test_a_mask_that_loading_computes_twice_counts_once(tmp_path):
    model = masked()
    model.save(tmp_path / "m.keras")
    edited = kg.insert(
        keras.models.load_model(tmp_path / "m.keras"), layers.ReLU(name="r"), "embed"
    )
    report = kg.diff(model, edited, by="value")
    assert [x.name for x in report.new] == ["r"] and report.dropped == report.changed == ()


def test_nothing_is_changed_by_comparing():
    model, other = residual(), residual()
    before = [np.array(keras.ops.convert_to_numpy(w)) for m in (model, other) for w in m.weights]
    config = model.get_config(), other.get_config()
    kg.diff(model, other, by="value")
    after = [keras.ops.convert_to_numpy(w) for m in (model, other) for w in m.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (model.get_config(), other.get_config()) == config


def scaled(k):
    def f(x):
        return x * k

    return f


@pytest.mark.parametrize("make", [
    lambda v: layers.Bidirectional(layers.LSTM(3, dtype=("float32", "mixed_bfloat16")[v]), name="l"),
    lambda v: layers.Dense(3, activation=scaled(v + 1.0), name="l"),
    lambda v: layers.Lambda(scaled(v + 1.0), name="l"),
    lambda v: layers.Lambda(functools.partial(lambda x, k: x * k, k=v + 1.0), name="l"),
])  # fmt: skip
def test_what_computes_differently_is_not_the_same(make):
    def model(v):
        keras.utils.set_random_seed(0)
        x = keras.Input((5, 4), name="x")
        return keras.Model(x, make(v)(x), name="m")

    same, other = kg.diff(model(0), model(0), by="value"), kg.diff(model(0), model(1), by="value")
    assert same.same_outputs and not same.other_outputs
    assert other.other_outputs and not other.same_outputs


def test_minus_zero_is_another_value():
    x = keras.Input((2,), name="x")
    one, two = (keras.Model(x, layers.Dense(1, name="d")(x)) for _ in "ab")
    for model, zero in ((one, 0.0), (two, -0.0)):
        model.set_weights([np.full((2, 1), zero, "float32"), np.zeros(1, "float32")])
    assert kg.diff(one, two, by="value").other_outputs
    assert kg.diff(one, kg.clone(one), by="value").same_outputs


def test_another_order_of_inputs_and_outputs_is_told():
    def model(inputs, outputs):
        keras.utils.set_random_seed(0)
        a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        named = {
            "a": a,
            "b": b,
            "p": layers.Dense(3, name="p")(a),
            "q": layers.Dense(3, name="q")(b),
        }
        out = keras.tree.map_structure(named.get, outputs)
        return keras.Model([named[name] for name in inputs], out, name="m")

    one = model("ab", ["p", "q"])
    assert kg.diff(one, model("ab", ["p", "q"]), by="value").order == ()
    other = kg.diff(one, model("ba", ["p", "q"]), by="value")
    assert other.order == ("the inputs are in another order",) and other.order[0] in str(other)
    says = ("the outputs are in another order, or have other keys",)
    assert kg.diff(one, model("ab", ["q", "p"]), by="value").order == says
    keys = [model("ab", names) for names in ({"k": "p", "l": "q"}, {"k": "q", "l": "p"})]
    assert kg.diff(*keys, by="value").order == says == kg.diff(one, keys[0], by="value").order
