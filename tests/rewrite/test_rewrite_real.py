"""Real networks rewritten: outputs, time that grows with the nodes alone, nested and opened parts, ties."""

import keras
import numpy as np
import pytest
from donor import equal, unchanged
from keras import layers, ops

import keras_graft as kg
from keras_graft.rewrite import search
from keras_graft.testing import random_inputs

BN, DENSE, RELU = layers.BatchNormalization, layers.Dense, layers.ReLU


def numpy(x):
    return ops.convert_to_numpy(x)


def folded(x, conv, bn):
    """Return the convolution that does what both do in inference."""
    scale = numpy(bn.gamma) / np.sqrt(numpy(bn.moving_variance) + bn.epsilon)
    new = type(conv).from_config({**conv.get_config(), "use_bias": True})
    y = new(x)
    bias = 0 if conv.bias is None else numpy(conv.bias)
    shift = (bias - numpy(bn.moving_mean)) * scale + numpy(bn.beta)
    new.set_weights([numpy(conv.kernel) * scale, shift])
    return y


def test_resnet50_with_every_norm_folded(tmp_path):
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)
    rng = np.random.default_rng(0)
    for v in model.weights:
        if "moving" in v.path or "gamma" in v.path or "beta" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
    new = kg.rewrite(
        model, lambda x, conv, bn: bn(conv(x)), folded, conv=layers.Conv2D, bn=BN
    )  # fmt: skip
    kinds = [n.kind for n in kg.read(new).nodes]
    assert "BatchNormalization" not in kinds and kinds.count("Conv2D") == 53
    assert [layer.name for layer in new.layers] == [
        layer.name for layer in model.layers if not isinstance(layer, BN)
    ]
    x = random_inputs(model)
    np.testing.assert_allclose(numpy(new(x)), numpy(model(x)), rtol=1e-3, atol=1e-5)
    by_recipe = kg.recipes.fold_batchnorm(model).model
    np.testing.assert_allclose(numpy(new(x)), numpy(by_recipe(x)), rtol=1e-4, atol=1e-6)


def test_mobilenet_v3_hard_swish_by_hand():
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(32, 32, 3), classes=3, include_preprocessing=False
    )

    def by_hand(x):
        return x * ops.relu6(x + 3.0) / 6.0

    spelled = kg.rewrite(
        model, lambda x, f: f(x), by_hand, f=lambda layer: layer.activation.__name__ == "hard_swish"
        or layer.activation.__name__ == "hard_silu",
        where=lambda f: isinstance(f, layers.Activation),
    )  # fmt: skip
    x = random_inputs(model)
    np.testing.assert_allclose(numpy(spelled(x)), numpy(model(x)), rtol=1e-4, atol=1e-6)
    again = kg.rewrite(spelled, by_hand, lambda x: ops.hard_silu(x))
    kinds = [n.kind for n in kg.read(again).nodes]
    assert "Relu6" not in kinds and kinds.count("HardSilu") == 19
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), rtol=1e-4, atol=1e-6)


def cells(count):
    """NASNet in small: cells of branches that are added and joined."""
    x = y = keras.Input((4,), name="x")
    for i in range(count):
        a = BN(name=f"bn{i}a")(DENSE(4, name=f"d{i}a")(RELU(name=f"r{i}a")(y)))
        b = BN(name=f"bn{i}b")(DENSE(4, name=f"d{i}b")(RELU(name=f"r{i}b")(y)))
        y = layers.Add(name=f"add{i}")([a, b])
    return keras.Model(x, y, name=f"cells{count}")


def count(monkeypatch, model):
    """Return how many nodes a model has, and how many calls were compared and traced for it."""
    found = {"compared": 0, "traced": 0, "asked": 0}
    compare = search.Search._call

    def comparing(self, *args):
        found["compared"] += 1
        return compare(self, *args)

    monkeypatch.setattr(search.Search, "_call", comparing)

    def is_norm(layer):
        found["asked"] += 1
        return type(layer) is BN

    def put(x, relu, layer, bn):
        found["traced"] += 1
        return bn(layer(ops.relu(x)))

    new = kg.rewrite(
        kg.read(model), lambda x, relu, layer, bn: bn(layer(relu(x))), put,
        relu=[RELU, layers.Activation], layer=[DENSE, layers.SeparableConv2D, layers.Conv2D], bn=is_norm,
    )  # fmt: skip
    monkeypatch.undo()
    return len(kg.read(model)), found, new


@pytest.mark.once
def test_the_work_grows_with_the_nodes(monkeypatch):
    small, few, _ = count(monkeypatch, cells(20))
    large, many, _ = count(monkeypatch, cells(200))
    assert large == 10 * small
    assert {key: value * 10 for key, value in few.items()} == many
    assert few["compared"] <= 3 * small and few["asked"] <= small


@pytest.mark.once
def test_nasnet_large_is_rewritten_in_work_linear_in_its_nodes(monkeypatch):
    model = keras.applications.NASNetLarge(weights=None, input_shape=(64, 64, 3), include_top=False)
    nodes, found, new = count(monkeypatch, model)
    assert nodes > 1000
    assert found["compared"] < 2 * nodes and found["asked"] <= nodes
    assert found["traced"] == [n.kind for n in new.nodes].count("Relu") > 80


# -- nested models and opened blocks ---------------------------------------------------------------


def nested():
    x = keras.Input((4,), name="x")
    i = keras.Input((4,), name="i")
    inner = keras.Model(i, RELU(name="r")(DENSE(4, name="d")(i)), name="inner")
    h = inner(inner(x))
    return keras.Model(x, RELU(name="r")(DENSE(4, name="d")(h)), name="outer")


def test_matches_inside_a_nested_model_that_is_called_twice(tmp_path):
    model = nested()
    pattern = lambda x, d, r: r(d(x))  # noqa: E731
    with unchanged(model, tmp_path) as x:
        found = kg.matches(model, pattern, d=DENSE, r=RELU)
        assert [m.path for m in found] == ["r", "inner#0/r", "inner#1/r"]
        new = kg.rewrite(model, pattern, lambda x, d: ops.tanh(d(x)), d=DENSE, r=RELU)
        assert [n.path for n in kg.select(new, "**").nodes if n.kind == "Tanh"] == [
            "inner#0/r_tanh", "inner#1/r_tanh", "r_tanh",
        ]  # fmt: skip
        d, e = model.get_layer("inner").get_layer("d"), model.get_layer("d")
        equal(new(x), ops.tanh(e(ops.tanh(d(ops.tanh(d(x)))))))
        new.save(tmp_path / "new.keras")
        equal(new(x), keras.saving.load_model(tmp_path / "new.keras")(x))
        del new


def test_one_call_of_a_nested_model_alone():
    model = nested()
    new = kg.rewrite(
        model, lambda x, d, r: r(d(x)), lambda x, d: d(x), d=DENSE, r=RELU,
        where=lambda match: match.path == "inner#1/r",
    )  # fmt: skip
    x = random_inputs(model)
    d, e = model.get_layer("inner").get_layer("d"), model.get_layer("d")
    equal(new(x), ops.relu(e(d(ops.relu(d(x))))))


@keras.saving.register_keras_serializable("rewrite")
class Block(layers.Layer):
    """A transformer block as it is written in code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.norm, self.norm2 = (
            layers.LayerNormalization(name="n"),
            layers.LayerNormalization(name="n2"),
        )
        self.up, self.down = DENSE(16, name="up"), DENSE(8, name="down")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.norm2.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def call(self, x):
        x = self.norm(x + self.attention(x, x))
        return self.norm2(x + self.down(ops.relu(self.up(x))))


def bert(count=3):
    x = keras.Input((5,), name="ids", dtype="int32")
    y = layers.Embedding(11, 8, name="tokens")(x)
    for i in range(count):
        y = Block(name=f"block{i}")(y)
    return keras.Model(x, DENSE(11, name="head")(y), name="bert")


def test_gelu_for_relu_in_every_mlp_of_layers_that_are_opened(tmp_path):
    model = bert()
    pattern = lambda x, up, down: down(ops.relu(up(x)))  # noqa: E731
    found = kg.matches(model, pattern, up=DENSE, down=DENSE)
    assert [m.path for m in found] == [f"block{i}/down" for i in range(3)]
    new = kg.rewrite(
        model, pattern, lambda x, up, down: down(ops.gelu(up(x))), up=DENSE, down=DENSE
    )
    assert sum(n.kind == "Gelu" for n in kg.select(new, "**").nodes) == 3
    ids = np.array([[1, 2, 3, 4, 5]])

    x = model.get_layer("tokens")(ids)
    for i in range(3):
        b = model.get_layer(f"block{i}")
        x = b.norm(x + b.attention(x, x))
        x = b.norm2(x + b.down(ops.gelu(b.up(x))))
    np.testing.assert_allclose(
        numpy(new(ids)), numpy(model.get_layer("head")(x)), rtol=1e-5, atol=1e-6
    )
    new.save(tmp_path / "new.keras")
    equal(new(ids), keras.saving.load_model(tmp_path / "new.keras")(ids))
    assert {id(w) for w in new.weights} == {id(w) for w in model.weights}


# -- ties ------------------------------------------------------------------------------------------


def tied():
    x = keras.Input((5,), name="ids", dtype="int32")
    h = layers.Embedding(11, 8, name="tokens")(x)
    h = RELU(name="r")(DENSE(8, name="d")(h))
    model = keras.Model(x, DENSE(11, name="head")(h), name="tied")
    return kg.tie(model, "head/kernel", "tokens/embeddings", transform="transpose")


def test_ties_are_kept_or_the_rewrite_is_refused(tmp_path):
    model = tied()
    ids = np.array([[1, 2, 3, 4, 5]])
    new = kg.rewrite(model, lambda x, d, r: r(d(x)), lambda x, d: ops.tanh(d(x)), d=DENSE, r=RELU)
    assert str(kg.sharing(new)) == str(kg.sharing(model))
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    equal(new(ids), loaded(ids))
    assert len(loaded.weights) == len(model.weights)
    pattern = lambda x, e: e(x)  # noqa: E731
    fresh = lambda x: layers.Embedding(11, 8)(x)  # noqa: E731
    with pytest.raises(kg.EditError, match="is tied to .* which would be gone. Untie it first"):
        kg.rewrite(model, pattern, fresh, e=layers.Embedding)
    untied = kg.untie(model, "head/kernel")
    kg.rewrite(untied, pattern, fresh, e=layers.Embedding)
