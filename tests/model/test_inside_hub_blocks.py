"""Edits inside the blocks of a keras_hub backbone, against copies of it that are changed by hand."""

import keras
import numpy as np
import pytest
from donor import arrays, equal, unchanged
from keras import layers

import keras_graft as kg

keras_hub = pytest.importorskip("keras_hub")

DEPTH = 3


def mistral(depth=DEPTH):
    keras.utils.set_random_seed(1)
    return keras_hub.models.MistralBackbone(
        vocabulary_size=11, num_layers=depth, num_query_heads=4, num_key_value_heads=2,
        hidden_dim=16, intermediate_dim=24,
    )  # fmt: skip


@pytest.fixture(name="model")
def _model(tmp_path):
    model = mistral()
    with unchanged(model, tmp_path):
        yield model


@pytest.fixture(name="other")
def _other(model):
    """Return another model with the same weights: it is changed by hand."""
    other = mistral()
    other.set_weights(model.get_weights())
    return other


def inputs(batch, length):
    rng = np.random.default_rng(batch)
    mask = np.ones((batch, length), "int32")
    mask[0, -1] = 0
    return {"token_ids": rng.integers(0, 11, (batch, length)), "padding_mask": mask}


def hooked(layer, function):
    """Let a function get what a layer gives, and return what is used in its place."""
    call = layer.call
    object.__setattr__(layer, "call", lambda *args, **kwargs: function(call(*args, **kwargs)))


def holds(new, hand, path, exact=True):
    new.save(path / "new.keras")
    loaded = keras.models.load_model(path / "new.keras")
    for size in ((2, 5), (1, 9)):
        x = inputs(*size)
        left, right = arrays(new(x)), arrays(hand(x))
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            if exact:
                assert a.tobytes() == b.tobytes(), np.abs(a - b).max()
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
        equal(new(x), loaded(x))


def attention(model, number):
    return model.transformer_layers[number]._self_attention_layer


def test_all_blocks_open(model, tmp_path):
    assert len(kg.explain(model)) == 2 * DEPTH and not kg.explain(model).closed
    flat = kg.build(kg.inline(kg.read(model, open="**")))
    holds(flat, model, tmp_path)
    assert {id(v) for v in flat.variables} == {id(v) for v in model.variables}


def test_a_cut_inside_a_block(model, other, tmp_path):
    at = ("transformer_layer_1/self_attention", "transformer_layer_0")
    trunk, head = kg.split(model, at=at, complete=True)
    kept = []
    hooked(attention(other, 1), lambda y: kept.append(y[0] if isinstance(y, tuple) else y) or y)
    hooked(other.transformer_layers[0], lambda y: kept.append(y) or y)

    def hand(x):
        kept.clear()
        other(x)
        return kept[1], kept[0]

    holds(keras.Model(trunk.inputs, trunk.outputs[:2]), hand, tmp_path)
    holds(kg.join(trunk, head), model, tmp_path)


def test_taps_of_every_query(model, other, tmp_path):
    taps = kg.extract(model, "transformer_layer_*/self_attention/query")
    kept = []
    for number in range(DEPTH):
        hooked(attention(other, number)._query_dense, lambda y: kept.append(y) or y)

    def hand(x):
        kept.clear()
        other(x)
        return list(kept)

    holds(taps, hand, tmp_path)


def test_gelu_for_silu_in_every_block(model, other, tmp_path):
    new = kg.replace(
        model, "transformer_layer_*/silu", lambda node: layers.Activation("gelu", name="gelu")
    )
    for block in other.transformer_layers:
        block.activation = keras.activations.gelu
    holds(new, other, tmp_path)
    assert {id(v) for v in new.variables} == {id(v) for v in model.variables}


def test_an_adapter_after_attention(model, other, tmp_path):
    made = []

    def adapter(node):
        made.append(layers.Dense(16, activation="tanh", name="adapter"))
        return made[-1]

    new = kg.insert(model, adapter, after="transformer_layer_*/self_attention")
    for number, layer in enumerate(made[-DEPTH:]):
        change = lambda y, layer=layer: (layer(y[0]), *y[1:]) if isinstance(y, tuple) else layer(y)  # noqa: E731
        hooked(attention(other, number), change)
    holds(new, other, tmp_path)


def test_lora_on_queries(model, other, tmp_path):
    new = kg.lora(model, "transformer_layer_*/self_attention/query", rank=2, seed=1)
    factors = iter(new.trainable_variables)
    for number in range(DEPTH):
        a, b = next(factors), next(factors)
        b.assign(keras.random.normal(b.shape, seed=number))
        kernel = attention(other, number)._query_dense.kernel
        kernel.assign(kernel + keras.ops.tensordot(a, b, 1))
    holds(new, other, tmp_path, exact=False)


def test_half_the_depth(model, tmp_path):
    short = kg.remove(model, "transformer_layer_1")
    hand = mistral(2)
    blocks = model.transformer_layers
    for new, old in zip(hand.transformer_layers, (blocks[0], blocks[2]), strict=True):
        new.set_weights(old.get_weights())
    hand.token_embedding.set_weights(model.token_embedding.get_weights())
    hand.layer_norm.set_weights(model.layer_norm.get_weights())
    holds(short, hand, tmp_path)
