"""Subclassed models and the inside of composite layers: the same verbs, by a path."""

import keras
import numpy as np
import pytest
from donor import arrays, equal
from inside_by_hand import gradient_by_hand
from keras import layers, ops

import keras_graft as kg


@keras.saving.register_keras_serializable("inside")
class Block(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = layers.LayerNormalization(name="norm")
        self.attention = layers.MultiHeadAttention(2, width // 2, name="attention")
        self.mlp = layers.Dense(width, activation="gelu", name="mlp")

    def call(self, x, change=None):
        y = self.norm(x)
        y = self.attention(y, y)
        x = x + (y if change is None else change(y))
        return x + self.mlp(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Network(keras.Model):
    def __init__(self):
        super().__init__(name="network")
        self.embed = layers.Embedding(10, 8, name="embed")
        self.blocks = [Block(8, name=f"layer_{i}") for i in range(3)]
        self.out = layers.Dense(4, name="out")

    def call(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.out(ops.mean(x, axis=1))


@pytest.fixture
def network():
    model = Network()
    ids = ops.convert_to_tensor(np.random.default_rng(0).integers(0, 10, (3, 5)).astype("int32"))
    model(ids)
    return model, ids


def by_hand(model, ids, changes):
    x = model.embed(ids)
    for i, block in enumerate(model.blocks):
        x = block(x, change=changes.get(i))
    return model.out(ops.mean(x, axis=1))


def test_record_inside_blocks(network):
    model, ids = network
    seen = {}

    def look(i):
        def change(value):
            seen[f"layer_{i}/attention"] = value
            return value

        return change

    by_hand(model, ids, {i: look(i) for i in range(3)})
    found = kg.record(model, ids, "layer_*/attention")
    assert list(found) == list(seen)
    equal(found, seen)
    inner = kg.record(model, ids, "layer_1/attention/query")["layer_1/attention/query"]
    block = model.blocks[1]
    x = model.blocks[0](model.embed(ids))
    equal(inner, block.attention.query_dense(block.norm(x)))


@pytest.mark.filterwarnings("ignore:.* is a plain Functional")  # its class is code
def test_patch_inside_blocks(network, tmp_path):
    model, ids = network
    variables = arrays(model.variables)
    plain = model(ids, training=False)
    equal(kg.patch(model, {"layer_1/attention": 0})(ids), by_hand(model, ids, {1: ops.zeros_like}))
    found = kg.record(model, ids, "layer_*/attention")
    equal(kg.patch(model, found)(ids), plain)
    asked = kg.patch(model, {"layer_1/attention": kg.Given("other")})
    value = ops.ones((3, 5, 8))
    equal(asked([ids, value]), by_hand(model, ids, {1: lambda y: value}))
    assert {id(w) for w in asked.weights} == {id(w) for w in model.weights}
    asked.save(tmp_path / "asked.keras")
    loaded = keras.models.load_model(tmp_path / "asked.keras")
    equal(loaded([ids, value]), asked([ids, value]))
    equal(model(ids, training=False), plain)
    equal(model.variables, variables)


def test_gradients_inside_blocks(network):
    model, ids = network
    for i in range(3):
        found = kg.gradients(model, ids, f"layer_{i}/attention", of=2)

        def run(added, i=i):
            return ops.sum(by_hand(model, ids, {i: lambda y: y + added})[:, 2])

        hand = gradient_by_hand(run, ops.zeros((3, 5, 8)))
        np.testing.assert_allclose(arrays(found.values)[0], hand, rtol=1e-4, atol=1e-7)
        equal(found.outputs, model(ids, training=False))


def test_a_backbone_of_keras_hub():
    backbone = pytest.importorskip("keras_hub").models.GPT2Backbone(
        vocabulary_size=12, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=6,
    )  # fmt: skip
    x = {"token_ids": np.ones((2, 6), "int32"), "padding_mask": np.ones((2, 6), "int32")}
    x = {name: ops.convert_to_tensor(value) for name, value in x.items()}
    graph = kg.read(backbone, open="**")
    opened = [n.path for n in kg.select(graph, "transformer_layer_*/*").nodes]
    found = kg.record(graph, x, opened[:6])
    patched = kg.patch(graph, {name: found[name] for name in list(found)[:2]})
    equal(kg.build(patched)(x), backbone(x))
