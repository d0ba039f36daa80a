"""Models to adapt, and what must hold of adapters on each of them."""

from __future__ import annotations

import keras
import models
import numpy as np
from donor import arrays
from keras import layers, ops

import keras_graft as kg


def attention() -> keras.Model:
    x = keras.Input((5, 8), name="x")
    y = layers.MultiHeadAttention(2, 4, dropout=0.1, name="attention")(x, x)
    y = layers.LayerNormalization(name="norm")(layers.Add(name="add")([x, y]))
    return keras.Model(x, layers.Dense(3, name="head")(y), name="attend")


def convolutions() -> keras.Model:
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, name="conv")(x)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(y)
    y = layers.Conv2DTranspose(5, 2, name="up")(y)
    y = layers.SeparableConv2D(4, 2, name="sep")(y)
    return keras.Model(x, layers.GlobalAveragePooling2D()(y), name="convolutions")


def recurrent() -> keras.Model:
    ids = keras.Input((6,), dtype="int32", name="ids")
    y = layers.Embedding(10, 5, mask_zero=True, name="embed")(ids)
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(y)
    return keras.Model(ids, layers.GRU(3, name="gru")(y), name="recurrent")


def wrapped() -> keras.Model:
    x = keras.Input((5, 3), name="x")
    inner = layers.TimeDistributed(layers.Dense(4, name="step"), name="each")
    return keras.Model(x, inner(x), name="wrapped")


def tied() -> keras.Model:
    ids = keras.Input((5,), dtype="int32", name="ids")
    y = layers.Embedding(9, 4, name="embedding")(ids)
    y = layers.LayerNormalization(name="norm")(y)
    model = keras.Model(ids, layers.Dense(9, name="lm_head")(y), name="lm")
    return kg.tie(model, "lm_head/kernel", "embedding/embeddings", transform="transpose")


def equations() -> keras.Model:
    """Einsum kernels whose input axes stand anywhere."""
    x = keras.Input((5, 6), name="x")
    y = layers.EinsumDense("btd,ndh->btnh", (None, 2, 3), bias_axes="nh", name="middle")(x)
    y = layers.EinsumDense("btnh,nhd->btd", (None, 4), name="two")(y)
    return keras.Model(x, layers.EinsumDense("btd,ed->bte", (None, 7), name="last")(y), name="eq")


def policy(name):
    def make() -> keras.Model:
        x = keras.Input((4,), name="x")
        return keras.Model(x, layers.Dense(3, dtype=name, name="d")(x), name="m")

    return make


def in_two_models() -> keras.Model:
    """One layer inside two nested models."""
    shared = layers.Dense(4, name="shared")
    parts = []
    for name in ("one", "two"):
        x = keras.Input((4,))
        parts.append(keras.Model(x, layers.Dense(4, name="own")(shared(x)), name=name))
    x = keras.Input((4,), name="x")
    return keras.Model(x, parts[1](parts[0](x)), name="two_parts")


CASES = {
    "attention": (attention, "**/query", ["attention/query/kernel"]),
    "two projections": (
        attention, ["**/query", "**/value"], ["attention/query/kernel", "attention/value/kernel"],
    ),
    "all of one layer": (attention, "attention", [
        f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output")
    ]),
    "convolutions": (convolutions, ["conv", "deep", "up", "sep"], [
        "conv/kernel", "deep/kernel", "up/kernel", "sep/depthwise_kernel", "sep/pointwise_kernel",
    ]),
    "recurrent": (recurrent, "**", [
        "embed/embeddings", "both/forward_lstm/lstm_cell/kernel",
        "both/forward_lstm/lstm_cell/recurrent_kernel", "both/backward_lstm/lstm_cell/kernel",
        "both/backward_lstm/lstm_cell/recurrent_kernel", "gru/gru_cell/kernel",
        "gru/gru_cell/recurrent_kernel",
    ]),
    "wrapped": (wrapped, "each/step", ["each/step/kernel"]),
    "tied": (tied, "embedding", ["embedding/embeddings"]),
    "equations": (equations, keras.layers.EinsumDense, ["middle/kernel", "two/kernel", "last/kernel"]),
    "shared": (models.shared, "shared", ["shared/kernel"]),
    "siamese": (models.siamese, "encoder/*", ["encoder/d0/kernel", "encoder/d1/kernel"]),
    "sequential": (models.sequential, "s0.kernel", ["s0/kernel"]),
    "masked": (models.masked, "embed", ["embed/embeddings"]),
    "hidden mask": (models.hidden_mask, "**/value", ["attention/value/kernel"]),
    "residual": (models.residual, "conv*", ["conv0/kernel", "conv1/kernel"]),
    "in two models": (in_two_models, "**/shared", ["one/shared/kernel"]),
    "bfloat16": (policy("mixed_bfloat16"), "d", ["d/kernel"]),
    "float16": (policy("float16"), "d", ["d/kernel"]),
}  # fmt: skip


def stirred(model, size=0.3):
    """Give the trained factors values, as training does."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if variable.name.startswith("lora_"):
            variable.assign(size * rng.normal(size=variable.shape))
    return model


def fitted(model, x, epochs=2):
    """Train a little, towards anything."""
    out = arrays(model(x))[0]
    y = np.random.default_rng(1).normal(size=out.shape).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = keras.tree.map_structure(ops.convert_to_numpy, x)
    model.fit(x, y, epochs=epochs, batch_size=2, shuffle=False, verbose=0)
    return model


def moved(model, x, before):
    return any(
        not np.array_equal(a, b) for a, b in zip(arrays(model(x)), arrays(before), strict=True)
    )


def close(left, right, tolerance=1e-5):
    for a, b in zip(arrays(left), arrays(right), strict=True):
        low = a.dtype != "float32"
        a, b = (np.asarray(v, "float32") for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=2e-2 if low else tolerance)
