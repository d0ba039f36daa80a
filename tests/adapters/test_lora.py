"""lora: outputs to the bit at first, only adapters train, files keep them, merging and removing."""

import keras
import numpy as np
import pytest
from adapted import CASES, attention, close, convolutions, fitted, moved, stirred, tied
from donor import arrays, equal, some, unchanged
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs

ALWAYS = {"attention", "convolutions", "recurrent", "tied", "siamese", "in two models"}
NAMES = sorted(CASES) if some([0, 1], 2) == [0, 1] else sorted(ALWAYS)


@pytest.mark.parametrize("name", NAMES)
def test_what_holds_of_every_model(name, tmp_path):
    make, target, addresses = CASES[name]
    donor = make()
    with unchanged(donor, tmp_path) as x:
        flags = [v.trainable for v in donor.variables]
        first = arrays(donor(x))
        tuned = kg.lora(donor, target, rank=2, alpha=3)
        # At first nothing is added, and all memory but that of the adapters is the donor's.
        equal(tuned(x), first)
        equal(tuned.predict_on_batch(x), donor.predict_on_batch(x))
        found = kg.list_adapters(tuned)
        assert [row.weight for row in found.rows] == addresses
        assert len(tuned.trainable_variables) == 2 * len(addresses)
        assert {id(v) for v in donor.weights} <= {
            id(getattr(v, "source", v)) for v in tuned.weights
        }
        # Only the adapters train.
        frozen = arrays(tuned.non_trainable_weights)
        out = arrays(fitted(stirred(tuned), x)(x))
        equal(tuned.non_trainable_weights, frozen)
        assert moved(tuned, x, first)
        equal(donor(x), first)
        # A file keeps them, unmerged.
        tuned.save(tmp_path / "tuned.keras")
        again = keras.models.load_model(tmp_path / "tuned.keras")
        equal(again(x), out)
        assert kg.list_adapters(again).rows == found.rows
        assert [v.name for v in again.trainable_variables] == [
            v.name for v in tuned.trainable_variables
        ]
        tuned.save_weights(tmp_path / "w.weights.h5")
        other = kg.lora(kg.clone(donor), target, rank=2, alpha=3)
        other.load_weights(tmp_path / "w.weights.h5")
        equal(other(x), out)
        copy = kg.clone(tuned)
        equal(copy(x), out)
        fitted(copy, x)
        equal(tuned(x), out)
        # Merged, a model of plain layers whose file needs no adapters; unmerged to the bit.
        for one in (tuned, again):
            merged = kg.merge_adapters(one)
            close(merged(x), out)
            assert not any(v.name.startswith("lora_") for v in merged.weights)
            back = kg.unmerge_adapters(merged)
            equal(back(x), out)
            assert len(back.trainable_variables) == len(tuned.trainable_variables)
        merged = kg.merge_adapters(tuned)
        assert [v.trainable for v in merged.variables] == flags
        assert merged.count_params() == donor.count_params()
        merged.save(tmp_path / "merged.keras")
        equal(keras.models.load_model(tmp_path / "merged.keras")(x), merged(x))
        # Removed, the donor's network again.
        for one in (tuned, merged and kg.unmerge_adapters(merged)):
            removed = kg.remove_adapters(one)
            equal(removed(x), first)
            assert [id(v) for v in removed.weights] == [id(v) for v in donor.weights]
            assert [v.trainable for v in removed.variables] == flags
        # A file of the adapters alone, on a copy of the donor and on the file's model.
        kg.save_adapters(tuned, tmp_path / "a.safetensors")
        equal(kg.load_adapters(kg.clone(donor), tmp_path / "a.safetensors")(x), out)
        if name != "in two models":  # Keras loads it as two layers, tied: another structure
            equal(kg.load_adapters(kg.remove_adapters(again), tmp_path / "a.safetensors")(x), out)
        del tuned, again, other, copy, merged, back, removed, one


@pytest.mark.once
def test_layers_keep_their_classes_and_names():
    donor = attention()
    tuned = kg.lora(donor, "**/query")
    assert [layer.name for layer in tuned.layers] == [layer.name for layer in donor.layers]
    layer = tuned.get_layer("attention")
    assert isinstance(layer, layers.MultiHeadAttention)
    assert type(layer).__name__ == "MultiHeadAttention"
    assert kg.select(tuned, layers.MultiHeadAttention).labels == ["attention"]
    plain = kg.remove_adapters(tuned).get_layer("attention")
    assert type(plain) is layers.MultiHeadAttention
    assert type(plain._query_dense) is layers.EinsumDense
    merged = kg.merge_adapters(tuned).get_layer("attention")
    assert type(merged) is layers.MultiHeadAttention


def test_dropout_stays_and_batch_normalization_is_frozen():
    donor = convolutions()
    x = random_inputs(donor, 4)
    tuned = kg.lora(donor, "conv", 2)
    assert tuned.get_layer("bn").trainable is False and donor.get_layer("bn").trainable is True
    averages = arrays(donor.get_layer("bn").non_trainable_weights)
    fitted(tuned, x)
    equal(donor.get_layer("bn").non_trainable_weights, averages)
    dropping = kg.lora(attention(), "**/query", 2)
    y = random_inputs(dropping, 2)
    assert moved(lambda x: dropping(x, training=True), y, dropping(y))


def test_layers_that_train_too_are_copies(tmp_path):
    donor = convolutions()
    x = random_inputs(donor, 4)
    with unchanged(donor, tmp_path):
        tuned = kg.lora(donor, "conv", 2, train=["bn", "up"])
        names = [v.path for v in tuned.trainable_variables]
        assert set(names) == {
            "bn/gamma", "bn/beta", "up/kernel", "up/bias",
            "conv/lora_default_kernel_a", "conv/lora_default_kernel_b",
        }  # fmt: skip
        before = arrays(tuned.get_layer("bn").weights)
        fitted(tuned, x)
        after = arrays(tuned.get_layer("bn").weights)
        assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        out = arrays(tuned(x))
        tuned.save(tmp_path / "tuned.keras")
        again = keras.models.load_model(tmp_path / "tuned.keras")
        equal(again(x), out)
        assert {v.path for v in again.trainable_variables} == set(names)
        # The file of adapters holds them, and the fingerprint is of all else.
        for number, one in enumerate((tuned, again)):
            path = tmp_path / f"{number}.safetensors"
            kg.save_adapters(one, path)
            loaded = kg.load_adapters(kg.clone(donor), path)
            equal(loaded(x), out)
            assert {v.path for v in loaded.trainable_variables} == set(names)
        more = kg.lora(tuned, "sep", 2, train="up")
        equal(more(x), out)
        merged = kg.merge_adapters(tuned)
        close(merged(x), out)
        equal(merged.get_layer("bn").weights, tuned.get_layer("bn").weights)
        del tuned, again, one, loaded, more, merged


@pytest.mark.once
def test_what_a_tied_layer_does():
    donor = tied()
    tuned = stirred(kg.lora(donor, "embedding", 2))
    table, head = tuned.get_layer("embedding"), tuned.get_layer("lm_head")
    close(table.embeddings, np.transpose(arrays(head.kernel)[0]))
    with pytest.raises(
        kg.NothingSelectedError,
        match="'lm_head/kernel' is tied to 'embedding/embeddings': adapt that",
    ):
        kg.lora(donor, "lm_head")
    trained = kg.lora(donor, "embedding", 2, train="lm_head")
    assert {v.path for v in trained.trainable_variables} == {
        "lm_head/bias", "embedding/lora_default_embeddings_a",
        "embedding/lora_default_embeddings_b",
    }  # fmt: skip
    with pytest.raises(
        kg.WeightsError, match="'d' has adapters of kg.lora for this weight. Tie first"
    ):
        x = keras.Input((4,))
        two = keras.Model(x, layers.Dense(4, name="d")(layers.Dense(4, name="e")(x)))
        kg.tie(kg.lora(two, "d"), "d/kernel", "e/kernel")


def test_a_model_that_was_frozen_as_a_whole():
    donor = CASES["siamese"][0]()
    donor.trainable = False
    donor.get_layer("encoder").trainable = False
    tuned = kg.lora(donor, "encoder/d1", 2)
    assert len(tuned.trainable_variables) == 2 and not donor.trainable_variables
    x = random_inputs(donor, 3)
    before = arrays(tuned.trainable_variables[1])
    fitted(tuned, x)
    assert not np.array_equal(arrays(tuned.trainable_variables[1])[0], before[0])


def test_edits_keep_adapters(tmp_path):
    donor = attention()
    x = random_inputs(donor, 2)
    tuned = stirred(kg.lora(donor, "**/query", 2))
    out = arrays(tuned(x))
    trunk, head = kg.split(tuned, at="norm")
    close(head(trunk(x)), out)
    assert len(trunk.trainable_variables) == 2 and not head.trainable_variables
    joined = kg.join(trunk, head)
    equal(joined(x), out)
    longer = kg.insert(tuned, layers.Dense(3, name="more"), after="head")
    assert len(longer.trainable_variables) == 4
    graph = kg.read(tuned)
    equal(kg.build(kg.lora(graph, "**/key", 2, name="k"))(x), out)
    frozen = kg.freeze(tuned, "attention")
    equal(frozen(x), out)
    assert not frozen.trainable_variables
    with pytest.raises(kg.EditError, match="'attention' has adapters and was frozen after"):
        kg.merge_adapters(frozen)
    thawed = kg.replace(frozen, kg.layers.Frozen, lambda node: node.operation.layer)
    close(kg.merge_adapters(thawed)(x), out)
    target = kg.clone(donor)
    kg.transplant(tuned, target)
    close(target(x), out)
    tuned.save(tmp_path / "tuned.keras")
    target = kg.clone(donor)
    kg.transplant(tmp_path / "tuned.keras", target)
    close(target(x), out)


def test_weights_of_a_plain_file_switch_the_adapters_off(tmp_path):
    donor = attention()
    x = random_inputs(donor, 2)
    donor.save_weights(tmp_path / "w.weights.h5")
    tuned = stirred(kg.lora(kg.clone(donor), "**/query", 2))
    assert moved(tuned, x, donor(x))
    tuned.load_weights(tmp_path / "w.weights.h5")
    equal(tuned(x), donor(x))


def test_seeds():
    made = [kg.lora(attention(), ["**/query", "**/key"], 2, seed=seed) for seed in (1, 1, 2)]
    values = [arrays(m.trainable_variables) for m in made]
    equal(values[0], values[1])
    assert not np.array_equal(values[0][0], values[2][0])
    assert not np.array_equal(values[0][0], values[0][2])  # each weight draws its own
