"""Several adapters on one model: which add, which train, which are merged."""

import keras
import numpy as np
import pytest
from adapted import arrays, attention, close, fitted, stirred
from donor import equal
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs


def names(model):
    return {v.name for v in model.trainable_variables}


def both():
    """A model with two adapters, `one` on the query and `two` on query and key."""
    donor = attention()
    one = stirred(kg.lora(donor, "**/query", 2, name="one"))
    two = stirred(kg.lora(one, ["**/query", "**/key"], 3, alpha=1, name="two"), 0.4)
    return donor, one, two


def test_a_new_adapter_comes_on_top_and_trains_alone():
    donor, one, two = both()
    x = random_inputs(donor, 2)
    assert names(two) == {f"lora_two_kernel_{letter}" for letter in "ab"}
    assert len(two.trainable_variables) == 4
    before = arrays(one.trainable_variables)
    fitted(two, x)
    equal(one.trainable_variables, before)
    fresh = kg.lora(one, "**/key", 2, name="fresh")
    equal(fresh(x), one(x))
    states = [(r.adapter, r.weight, r.active, r.trains) for r in kg.list_adapters(two).rows]
    assert states == [
        ("one", "attention/query/kernel", True, False),
        ("two", "attention/query/kernel", True, True),
        ("two", "attention/key/kernel", True, True),
    ]


def test_one_name_on_more_weights_is_one_adapter():
    donor = attention()
    tuned = kg.lora(kg.lora(donor, "**/query", 2), "**/value", 4)
    assert kg.list_adapters(tuned).names == ["default"]
    assert [r.rank for r in kg.list_adapters(tuned).rows] == [2, 4]
    assert len(tuned.trainable_variables) == 4


def test_set_adapters():
    donor, one, two = both()
    x = random_inputs(donor, 2)
    total = arrays(two(x))
    first = kg.set_adapters(two, "one")
    close(first(x), one(x))
    assert names(first) == {"lora_one_kernel_a", "lora_one_kernel_b"}
    none = kg.set_adapters(two, [])
    equal(none(x), donor(x))
    assert not none.trainable_variables
    assert [r.active for r in kg.list_adapters(none).rows] == [False] * 3
    again = kg.set_adapters(none, ["two", "one"])
    equal(again(x), total)
    assert len(again.trainable_variables) == 6
    still = kg.set_adapters(none, ["two", "one"], train=False)
    equal(still(x), total)
    assert not still.trainable_variables
    # The same variables: what is trained in one choice is seen in the others.
    fitted(first, x)
    close(kg.set_adapters(two, "one")(x), first(x))
    equal(two(x), again(x))


def test_what_is_off_stays_off_in_files(tmp_path):
    donor, _, two = both()
    x = random_inputs(donor, 2)
    first = kg.set_adapters(two, "one")
    first.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    equal(loaded(x), first(x))
    assert kg.list_adapters(loaded).rows == kg.list_adapters(first).rows
    close(kg.set_adapters(loaded, ["one", "two"])(x), two(x))
    kg.save_adapters(first, tmp_path / "both.safetensors")
    kg.save_adapters(two, tmp_path / "two.safetensors", name="two")
    third = kg.load_adapters(kg.clone(donor), tmp_path / "two.safetensors", name="other")
    close(third(x), kg.set_adapters(two, "two")(x))
    assert kg.list_adapters(third).names == ["other"]
    every = kg.load_adapters(kg.clone(donor), tmp_path / "both.safetensors", train=False)
    close(every(x), two(x))
    assert not every.trainable_variables
    on_top = kg.load_adapters(kg.set_adapters(two, "one"), tmp_path / "two.safetensors", "again")
    close(on_top(x), two(x))


def test_merging_some():
    donor, one, two = both()
    x = random_inputs(donor, 2)
    total = arrays(two(x))
    part = kg.merge_adapters(two, "one")
    close(part(x), total)
    assert len(part.trainable_variables) == 4 and kg.list_adapters(part).rows[-1].merged
    close(kg.set_adapters(part, [])(x), one(x))
    whole = kg.merge_adapters(part)
    close(whole(x), total)
    assert not [v for v in whole.weights if v.name.startswith("lora_")]
    back = kg.unmerge_adapters(whole, "two")
    close(back(x), total)
    base = kg.unmerge_adapters(back)
    equal(kg.remove_adapters(base)(x), donor(x))
    ids = {id(v) for v in donor.weights}
    assert ids == {id(v) for v in kg.remove_adapters(base).weights}
    # All that are active: one that is not stays, and adds nothing.
    left = kg.merge_adapters(kg.set_adapters(two, "one"))
    close(left(x), one(x))
    assert [r.adapter for r in kg.list_adapters(left).rows if not r.merged] == ["two", "two"]
    gone = kg.remove_adapters(left)
    assert not [v for v in gone.weights if v.name.startswith("lora_")]
    close(gone(x), one(x))


def test_removing_some():
    donor, one, two = both()
    x = random_inputs(donor, 2)
    close(kg.remove_adapters(two, "two")(x), one(x))
    equal(kg.remove_adapters(two)(x), donor(x))
    equal(kg.remove_adapters(kg.remove_adapters(two, ["one"]), "two")(x), donor(x))


def test_adapters_on_a_merged_model_and_back():
    donor, one, _ = both()
    x = random_inputs(donor, 2)
    merged = kg.merge_adapters(one)
    next_one = stirred(kg.lora(merged, "**/query", 2, name="next"))
    close(kg.set_adapters(next_one, [])(x), one(x))
    back = kg.unmerge_adapters(next_one)
    close(back(x), next_one(x))
    equal(kg.remove_adapters(back)(x), donor(x))


def test_train_only(tmp_path):
    donor = attention()
    x = random_inputs(donor, 2)
    before = arrays(donor.weights)
    flags = [v.trainable for v in donor.variables]
    new = kg.train_only(donor, ["head", "norm"])
    equal(new(x), donor(x))
    wanted = {"head/kernel", "head/bias", "norm/gamma", "norm/beta"}
    assert {v.path for v in new.trainable_variables} == wanted
    fitted(new, x)
    equal(donor.weights, before)
    assert [v.trainable for v in donor.variables] == flags
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    equal(loaded(x), new(x))
    assert {v.path for v in loaded.trainable_variables} == wanted
    assert type(loaded.get_layer("head")) is layers.Dense
    tuned = kg.train_only(stirred(kg.lora(donor, "**/query", 2)), "head")
    assert {v.path for v in tuned.trainable_variables} == {"head/kernel", "head/bias"}
    with pytest.raises(
        kg.NothingSelectedError, match="train_only: train='add' names no layer with"
    ):
        kg.train_only(donor, "add")


@pytest.mark.once
def test_the_report():
    donor = attention()
    tuned = kg.set_adapters(kg.lora(kg.lora(donor, "**/query", 2), "**/key", 2, 3, "k"), "k")
    assert str(kg.list_adapters(tuned)) == (
        "attend: 32 of 395 parameters train (8.1%)\n"
        "weight                  adapter  rank  alpha  parameters  state\n"
        "attention/query/kernel  default     2      2          32  off\n"
        "attention/key/kernel    k           2      3          32  trains"
    )
    merged = kg.list_adapters(kg.merge_adapters(tuned))
    assert [r.merged for r in merged.rows] == [False, True]
    data = kg.list_adapters(tuned).to_dict()
    assert data["trainable"] == 32 and data["rows"][1]["weight"] == "attention/key/kernel"
    plain = kg.list_adapters(donor)
    assert not plain.rows and plain.trainable == plain.parameters == donor.count_params()
    assert str(plain) == "attend: 331 of 331 parameters train (100%)"


@pytest.mark.once
@pytest.mark.parametrize(("call", "error", "says"), [
    (lambda m, t: kg.lora(m, "**/qery"), kg.NothingSelectedError,
     "'**/qery' names no weight in 'attend' that can take an adapter. Did you mean "
     "'attention/query'? These can: 'attention/query', 'attention/key', 'attention/value', "
     "'attention/attention_output', 'head'."),
    (lambda m, t: kg.lora(m, "norm"), kg.NothingSelectedError, "'norm/gamma' has one dimension."),
    (lambda m, t: kg.lora(m, "head/bias"), kg.EditError, "'head/bias' has one dimension"),
    (lambda m, t: kg.lora(m, "head", rank=0), kg.EditError, "rank must be a whole number from 1"),
    (lambda m, t: kg.lora(m, "head", alpha="a"), kg.EditError, "alpha must be a number, got 'a'"),
    (lambda m, t: kg.lora(m, "head", name="a/b"), kg.EditError, "letters, digits, '_' and '-'"),
    (lambda m, t: kg.lora(m, "head", seed="x"), kg.EditError, "seed must be a whole number"),
    (lambda m, t: kg.lora(m, "head", train="haed"), kg.SelectionError, "lora: train='haed'"),
    (lambda m, t: kg.lora(t, "**/query"), kg.EditError,
     "'attention/query/kernel' has an adapter named 'default'. Give another name=, or remove it "
     'first: kg.remove_adapters(model, "default").'),
    (lambda m, t: kg.set_adapters(m, "a"), kg.EditError,
     'it has no adapters. Add one: kg.lora(model, "**/query").'),
    (lambda m, t: kg.set_adapters(t, "a"), kg.EditError, "has no adapter 'a', only 'default'"),
    (lambda m, t: kg.set_adapters(t, "default", train=1), kg.EditError, "train must be True or"),
    (lambda m, t: kg.unmerge_adapters(t), kg.EditError,
     "'default' is not merged: kg.merge_adapters(model) does that."),
    (lambda m, t: kg.unmerge_adapters(m), kg.EditError, "nothing was merged in it"),
    (lambda m, t: kg.merge_adapters(kg.merge_adapters(t)), kg.EditError,
     "'default' is merged. Unmerge first: kg.unmerge_adapters(model)."),
    (lambda m, t: kg.remove_adapters(t, ["default", "b"]), kg.EditError, "no adapter 'b'"),
    (lambda m, t: t.get_layer("attention")._query_dense.quantize("int8"), kg.NotYetError,
     "quantize: 'query' has adapters. Merge them first: kg.merge_adapters(model)."),
    (lambda m, t: t.get_layer("attention")._query_dense.enable_lora(2), kg.NotYetError,
     "enable_lora: 'query' has adapters of kg.lora"),
], ids=range(18))  # fmt: skip
def test_refusals(call, error, says):
    model = attention()
    tuned = kg.lora(model, "**/query", 2)
    config, weights = tuned.get_config(), arrays(tuned.weights)
    with pytest.raises(error) as caught:
        call(model, tuned)
    assert says in str(caught.value), caught.value
    assert tuned.get_config() == config
    equal(tuned.weights, weights)


@pytest.mark.once
def test_what_takes_no_adapter():
    x = keras.Input((4,), name="x")
    layer = layers.Dense(3, name="d", kernel_constraint="max_norm")
    with pytest.raises(kg.NothingSelectedError, match="'d/kernel' has a constraint, which"):
        kg.lora(keras.Model(x, layer(x)), "d")
    layer = layers.Dense(3, name="d")
    model = keras.Model(x, layer(x))
    layer.enable_lora(2)
    with pytest.raises(kg.NothingSelectedError, match="'d/kernel' is in a layer with the adapters"):
        kg.lora(model, "d")
    frozen = kg.freeze(keras.Model(x, layers.Dense(3, name="d")(x)))
    with pytest.raises(kg.NothingSelectedError, match="kg.freeze put in inference mode"):
        kg.lora(frozen, "d")
    model = keras.Model(x, layers.Dense(3, name="d")(x))
    model.quantize("float8")
    with pytest.raises(kg.NothingSelectedError, match=r"'d/kernel' is quantized \(float8\)"):
        kg.lora(model, "d")


@pytest.mark.once
def test_a_weight_of_a_users_layer_by_its_address():
    @keras.saving.register_keras_serializable("test_several")
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 3), name="mix")

        def call(self, x):
            return keras.ops.matmul(x, self.matrix)

    x = keras.Input((4,), name="x")
    model = keras.Model(x, Scale(name="s")(x))
    with pytest.raises(kg.NothingSelectedError):
        kg.lora(model, "s")  # which of its weights is meant is not known
    tuned = stirred(kg.lora(model, "s/mix", 2))
    given = np.ones((2, 4), "float32")
    a, b = arrays(tuned.trainable_variables)
    close(tuned(given), arrays(model(given))[0] + given @ a @ b)
    close(kg.merge_adapters(tuned)(given), tuned(given))


def test_half_of_a_tie_does_not_train_alone():
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Dense(4, name="d")(keras.layers.Embedding(9, 4, name="emb")(ids))
    model = kg.tie(
        keras.Model(ids, keras.layers.Dense(9, name="lm")(x)), "lm.kernel", "emb.embeddings",
        transform="transpose",
    )  # fmt: skip
    says = r"'lm' is tied to 'emb', which would stay frozen. Name both, \['lm', 'emb'\], or untie"
    with pytest.raises(kg.EditError, match=f"train_only: a weight of {says}"):
        kg.train_only(model, "lm")
    with pytest.raises(kg.EditError, match=f"lora: a weight of {says}"):
        kg.lora(model, "d", train="lm")
    both = kg.train_only(model, ["lm", "emb"])
    assert [v.path for v in both.trainable_variables] == ["emb/embeddings", "lm/bias"]
    kg.train_only(kg.untie(model, "lm.kernel"), "lm")
