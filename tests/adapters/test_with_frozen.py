"""Adapters meet freeze, unfreeze, learning_rates and stored features."""

import keras
import numpy as np
import pytest
from adapted import attention, close, stirred
from donor import arrays, equal
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs


def names(model):
    return [v.path for v in model.trainable_variables]


def tuned(seed=0):
    donor = attention()
    return donor, stirred(kg.lora(donor, "**/query", 2, train="head", seed=seed))


def fit(model):
    model.compile("adam", "mse")
    x = random_inputs(model, 4)
    model.fit(x, np.ones((4, 5, 3)), epochs=2, verbose=0)


@pytest.mark.parametrize("selector", ["attention", "**"])
def test_freeze_then_unfreeze_trains_the_adapters_and_nothing_else(selector, tmp_path):
    donor, model = tuned()
    before = arrays(donor.weights)
    frozen = kg.freeze(model, selector)
    assert not any("lora" in name for name in names(frozen))
    assert kg.list_adapters(frozen).rows[0].trains is False
    assert "active" in str(kg.list_adapters(frozen)) and "trains" in str(kg.list_adapters(model))
    thawed = kg.unfreeze(frozen, selector)
    assert names(thawed) == names(model)
    fit(thawed)
    equal(before, arrays(donor.weights))
    x = random_inputs(donor, 2)
    thawed.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert names(loaded) == names(thawed)
    equal(thawed.predict(x, verbose=0), loaded.predict(x, verbose=0))
    close(kg.merge_adapters(thawed).predict(x, verbose=0), thawed.predict(x, verbose=0))


def test_unfreeze_does_not_undo_what_lora_froze():
    donor, model = tuned()
    only = kg.train_only(donor, "head")
    for new in (model, only, kg.clone(model)):
        for how in ({}, {"batch_norm": True}, {"in_place": True}):
            with pytest.raises(
                kg.EditError, match=r"froze 'norm'.*kg\.train_only\(model, \.\.\.\)"
            ):
                kg.unfreeze(new, "norm", **how)
            assert not new.get_layer("norm").trainable
    assert "norm/gamma" in names(kg.train_only(model, ["norm", "head"]))
    assert "norm/gamma" in names(kg.train_only(only, ["norm", "head"]))
    assert "norm/gamma" in names(kg.lora(donor, "**/query", train=["norm", "head"]))
    assert "norm/gamma" in names(kg.unfreeze(kg.merge_adapters(model), "norm"))
    assert "norm/gamma" in names(kg.unfreeze(kg.remove_adapters(model), "norm"))


def test_what_else_is_unfrozen_beside_adapters_is_the_same_in_a_file(tmp_path):
    _, model = tuned()
    frozen = kg.freeze(model, ["head", "norm"])
    new = kg.unfreeze(frozen)  # the head was frozen by freeze, the norm by lora too
    assert names(new) == names(model)
    new.save(tmp_path / "m.keras")
    assert names(keras.models.load_model(tmp_path / "m.keras")) == names(new)


@pytest.mark.once
def test_a_frozen_layer_is_adapted_after_unfreeze():
    donor = attention()
    frozen = kg.freeze(donor)
    with pytest.raises(kg.NothingSelectedError, match=r'kg\.unfreeze\(model, "attention"\)'):
        kg.lora(frozen, "**/query")
    new = kg.lora(kg.unfreeze(frozen, "attention"), "**/query", 2)
    assert [name.rpartition("_")[0] for name in names(new)] == [
        "attention/query/lora_default_kernel"
    ] * 2


@pytest.mark.once
def test_rates_by_depth_and_training_on_after_a_merge(tmp_path):
    _, model = tuned()
    rates = kg.learning_rates(model, "adam", 0.1, decay=0.5)
    found = {row[0]: row[2] for row in rates.rates.to_dict()["weights"]}
    assert found["attention/query/lora_default_kernel_a"] == 0.05 and found["head/bias"] == 0.1
    model.compile(rates, "mse")
    x = random_inputs(model, 4)
    model.fit(x, np.ones((4, 5, 3)), verbose=0)
    merged = kg.merge_adapters(model)
    merged.compile(kg.learning_rates(merged, "adam", {"head": 0.1, "**": 0.01}), "mse")
    carried = str(kg.carry_optimizer(model, merged, match="name"))
    assert "attention/query/lora_default_kernel_a" in carried
    assert int(merged.optimizer.iterations) == 1
    merged.fit(x, np.ones((4, 5, 3)), verbose=0)


def test_a_store_knows_its_adapters(tmp_path):
    x = keras.Input((6,), name="x")
    y = layers.Dense(5, name="features")(layers.Dense(8, "tanh", name="body")(x))
    donor = keras.Model(x, layers.Dense(3, name="head")(y))
    x, place, target = np.asarray(random_inputs(donor, 12)), "features", "body"
    y = np.arange(12) % 3

    def head(model, folder):
        return kg.features.fit_head(
            model, place, (x, y), head=3, store=tmp_path / folder, progress=False
        )

    model = kg.lora(donor, target, 2)
    head(model, "a")
    fitted = head(model, "a")  # reused
    assert not any("lora" in name for name in names(fitted.model))
    stirred(model)
    for other in (model, donor, kg.set_adapters(model, []), kg.merge_adapters(model)):
        with pytest.raises(kg.FeatureError, match="holds different features"):
            head(other, "a")
    fitted = head(model, "b")
    again = kg.unfreeze(fitted.model, target)
    assert len([name for name in names(again) if "lora" in name]) == 2
    again.compile("adam", "sparse_categorical_crossentropy")
    again.fit(x, y, verbose=0)
    with pytest.raises(kg.FeatureError, match="the weights of the trunk"):
        head(again, "b")


def test_a_part_left_frozen_by_unfreeze_is_unfrozen_later():
    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(4, name="dense")
            self.norm = layers.BatchNormalization(name="norm")

        def build(self, shape):
            self.dense.build(shape)
            self.norm.build((*shape[:-1], 4))

        def call(self, x):
            return self.norm(self.dense(x))

    x = keras.Input((3,))
    donor = keras.Model(x, Block(name="block")(x))
    for frozen in (kg.freeze(donor), donor):
        donor.trainable = frozen is not donor
        partly = kg.unfreeze(frozen, "block")
        assert names(partly) == ["block/dense/kernel", "block/dense/bias"]
        whole = kg.unfreeze(partly, "block", batch_norm=True)
        assert len(names(whole)) == 4
        whole.compile("sgd", "mse")
        whole.fit(np.eye(3), np.ones((3, 4)), verbose=0)
        equal(donor(np.eye(3)), whole(np.eye(3)))


def test_a_frozen_layer_beside_adapters_is_frozen_again_and_trains_around(tmp_path):
    donor, model = tuned()
    for frozen in (kg.freeze(model, "norm"), kg.freeze(model, ["attention", "norm"])):
        before = [arrays(w) for w in frozen.non_trainable_variables]
        fit(frozen)
        for old, new in zip(before, frozen.non_trainable_variables, strict=True):
            if "seed" not in new.path:
                equal(old, arrays(new))
