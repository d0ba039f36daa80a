"""Layers of their own for calls of a shared one, and one layer for several."""

import keras
import numpy as np
import pytest
from architectures import backbones
from donor import arrays, equal, unchanged
from keras import layers
from models import residual, shared, siamese
from tied import language, target_like, train

import keras_graft as kg
from keras_graft.testing import random_inputs


def test_one_call_of_a_shared_layer_gets_its_own(tmp_path):
    model = shared()
    with unchanged(model, tmp_path) as x:
        new = kg.unshare(model, "shared#1")
        equal(new(x), model(x))
        assert [n.label for n in kg.read(new)] == ["shared#0", "shared_1", "shared#1"]
        assert new.get_layer("shared") is model.get_layer("shared")
        assert new.count_params() == 2 * model.count_params()
        assert [w.path for w in new.weights] == [
            "shared/kernel", "shared/bias", "shared_1/kernel", "shared_1/bias",
        ]  # fmt: skip
        new.save(tmp_path / "new.keras")
        equal(keras.models.load_model(tmp_path / "new.keras")(x), model(x))
        del new
    copy = kg.unshare(kg.clone(model), "shared#1")
    before = [a.copy() for a in arrays(copy.weights)]
    train(copy, x, target_like(copy, x))
    assert all(not np.array_equal(a, b) for a, b in zip(arrays(copy.weights), before, strict=True))
    assert not np.array_equal(*arrays([w for w in copy.weights if w.name == "kernel"]))
    if keras.backend.backend() == "torch":
        assert len(list(copy.parameters())) == 4


def test_all_calls_get_their_own_but_the_first():
    model = shared()
    x = random_inputs(model, 2)
    new = kg.unshare(model, "shared")
    assert [n.label for n in kg.read(new)] == ["shared", "shared_1", "shared_2"]
    equal(new(x), model(x))
    graph = kg.unshare(kg.read(model), ["shared#0", "shared#2"], weights="fresh")
    assert [n.label for n in graph] == ["shared_1", "shared", "shared_2"]
    assert not np.array_equal(*arrays([kg.build(graph)(x), model(x)]))


def test_a_nested_model_called_twice_gets_a_twin(tmp_path):
    model = siamese()
    with unchanged(model, tmp_path) as x:
        new = kg.unshare(model, "encoder#1")
        equal(new(x), model(x))
        assert (
            new.count_params() == model.count_params() + model.get_layer("encoder").count_params()
        )
        twin = new.get_layer("encoder_1")
        assert [layer.name for layer in twin.layers] == ["inner", "d0", "d1"]
        new.save(tmp_path / "new.keras")
        equal(keras.models.load_model(tmp_path / "new.keras")(x), model(x))
        del new, twin
    if keras.backend.backend() == "torch":
        assert len(list(kg.unshare(kg.clone(model), "encoder#1").parameters())) == 10


def test_albert_of_a_bert(tmp_path):
    model = backbones()["Bert"]()
    with unchanged(model, tmp_path) as x:
        blocks = kg.select(model, "transformer_layer_*")
        size = model.get_layer("transformer_layer_0").count_params()
        one = kg.share(model, ["transformer_layer_*"])
        assert one.count_params() == model.count_params() - size * (len(blocks) - 1)
        (block,) = [o for o in kg.sharing(one).operations if "transformer" in o.calls[0]]
        assert len(block.calls) == len(blocks) == 2
        first = model.get_layer("transformer_layer_0")
        assert one.get_layer("transformer_layer_0") is first
        mean = kg.share(model, ["transformer_layer_0", "transformer_layer_1"], weights="mean")
        new = mean.get_layer("transformer_layer_0")
        assert new is not first
        pairs = [model.get_layer(f"transformer_layer_{i}").weights for i in (0, 1)]
        for got, a, b in zip(new.weights, *pairs, strict=True):
            np.testing.assert_allclose(arrays(got)[0], sum(arrays([a, b])) / 2, rtol=1e-6)
        mean.save(tmp_path / "m.keras")
        equal(keras.models.load_model(tmp_path / "m.keras")(x), mean(x))
        del one, mean, new, block, first, pairs, blocks


def unlike():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="a")(x)
    y = layers.Dense(4, activation="relu", name="b")(y)
    y = layers.Dense(4, use_bias=False, name="c")(y)
    return keras.Model(x, layers.BatchNormalization(name="norm")(keras.ops.relu(y)), name="unlike")


def two_alike():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(4, name="b")(layers.Dense(4, name="a")(x)))


def quantized():
    model = two_alike()
    model.quantize("int8")
    return model


def adapted():
    model = two_alike()
    model.get_layer("a").enable_lora(2)
    model.get_layer("b").enable_lora(2)
    return model


def tied():
    return kg.tie(language(), "lm_head/kernel", "embedding/embeddings", "transpose")


REFUSALS = {
    "once": (residual, lambda m: kg.unshare(m, "stem"), "'stem' .Conv2D. is called once, so it sh"),
    "an op": (unlike, lambda m: kg.unshare(m, "relu*"), "'relu.*' .Relu. is an op: it holds no wei"),
    "how": (shared, lambda m: kg.unshare(m, "shared#1", weights="no"), "\"copy\" or \"fresh\", got"),
    "one": (residual, lambda m: kg.share(m, ["stem"]), "names one layer, 'stem'; give two or more"),
    "mean": (residual, lambda m: kg.share(m, ["conv0", "conv1"], weights="sum"), "\"mean\", got 's"),
    "class": (unlike, lambda m: kg.share(m, ["a", "norm"]), "they are a Dense and a BatchNormaliz"),
    "shapes": (unlike, lambda m: kg.share(m, ["a", "c"]), "their weights differ: "),
    "config": (unlike, lambda m: kg.share(m, ["a", "b"]),
               "their configurations differ in activation .'linear' against 'relu'."),
    "ops": (unlike, lambda m: kg.share(m, ["a", "relu*"]), "'relu.*' .Relu. is not a layer with weights"),
    "quantized": (quantized, lambda m: kg.share(m, ["a", "b"], weights="mean"), "'a' is quantized, a"),
    "adapters": (adapted, lambda m: kg.share(m, ["a", "b"], weights="mean"), "'a' has LoRA adapters"),
    "none": (unlike, lambda m: kg.share(m, []), r"share: \[\] names no layer; give two or more"),
    "tied": (tied, lambda m: kg.share(m, ["norm", "lm_head"]), "a weight of 'lm_head' is tied"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "attempt", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_shared_or_unshared_is_refused(make, attempt, words, tmp_path):
    model = make()
    with unchanged(model, tmp_path):
        with pytest.raises(kg.WeightsError, match=words) as caught:
            attempt(model)
        del caught


def test_layers_that_do_not_take_what_the_other_reads():
    x = keras.Input((8, 8, 4))
    y = layers.BatchNormalization(name="map")(x)
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    model = keras.Model(x, layers.BatchNormalization(name="vector")(y))
    with pytest.raises(kg.BuildError, match="'map#1' .* does not take its inputs") as caught:
        kg.share(model, ["map", "vector"])
    assert "expected ndim=4, found ndim=2" in str(caught.value)


def test_a_twin_on_a_graph_has_its_own_inside():
    model = siamese()
    graph = kg.unshare(kg.read(model), "encoder#1")
    assert kg.build(kg.inline(graph)).count_params() == model.count_params() + 43
    assert len(kg.select(graph, "encoder_1/d0")) == 1


def test_a_mean_of_float64_is_one():
    x = keras.Input((4,), dtype="float64")
    a, b = (layers.Dense(4, name=name, dtype="float64") for name in "ab")
    new = kg.share(keras.Model(x, b(a(x))), ["a", "b"], weights="mean")
    expected = (arrays(a.kernel)[0] + arrays(b.kernel)[0]) / 2
    np.testing.assert_array_equal(arrays(new.get_layer("a").kernel)[0], expected)
