"""Small models of every shape that the verbs must take, by name."""

from __future__ import annotations

import keras
from keras import layers, ops


def residual() -> keras.Model:
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for i in range(2):
        y = layers.BatchNormalization(name=f"bn{i}")(x)
        y = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{i}")(y)
        x = layers.Add(name=f"add{i}")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="residual")


def shared() -> keras.Model:
    inputs = keras.Input((4,), name="x")
    dense = layers.Dense(4, activation="tanh", name="shared")
    return keras.Model(inputs, dense(dense(dense(inputs))), name="thrice")


def siamese() -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Input((4,), name="inner")
    y = layers.Dense(5, activation="relu", name="d0")(inner)
    encoder = keras.Model(inner, layers.Dense(3, name="d1")(y), name="encoder")
    x = layers.Concatenate(name="both")([encoder(a), encoder(b)])
    return keras.Model([a, b], layers.Dense(2, name="out")(x), name="siamese")


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(5, activation="relu", name="s0"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(2, name="s1"),
        ],
        name="stack",
    )


def masked() -> keras.Model:
    ids = keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(2, 6, mask_zero=True, name="embed")(ids)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(ids, layers.Dense(2, name="out")(x), name="masked")


def hidden_mask() -> keras.Model:
    ids = keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(2, 6, mask_zero=True, name="embed")(ids)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Dense(4, name="mix")(x)
    return keras.Model(ids, layers.GRU(3, name="gru")(x), name="hidden_mask")


def several() -> keras.Model:
    inputs = {
        "left": keras.Input((4,), name="left"),
        "right": keras.Input((3,), name="right"),
    }
    x = layers.Dense(3, name="l")(inputs["left"])
    y = ops.add(x, inputs["right"]) * 2.0
    return keras.Model(
        inputs,
        {"sum": layers.Dense(2, name="top")(y), "aux": [x, inputs["right"]]},
        name="several",
    )


def multi_output() -> keras.Model:
    inputs = keras.Input((5, 3), name="steps")
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(inputs)
    x = layers.Add(name="states")([h, c])
    y = layers.GlobalMaxPooling1D(name="top")(sequence)
    return keras.Model(inputs, layers.Concatenate(name="out")([x, y]), name="multi_output")


def nested_uint8() -> keras.Model:
    inner = keras.Input((None, None, 3), name="pixels")
    y = layers.Conv2D(4, 3, name="c0")(inner)
    y = layers.ReLU(name="r0")(y)
    base = keras.Model(inner, layers.GlobalAveragePooling2D(name="p0")(y), name="base")
    image = keras.Input((9, 9, 3), dtype="uint8", name="image")
    return keras.Model(image, layers.Dense(2, name="out")(base(image)), name="nested_uint8")


def masked_nested() -> keras.Model:
    inner = keras.Input((None, 6), name="states")
    y = layers.Dense(6, name="d0")(inner)
    y = layers.MultiHeadAttention(2, 3, name="attention")(y, y)
    y = layers.LSTM(5, return_sequences=True, name="lstm")(y)
    encoder = keras.Model(inner, layers.GlobalAveragePooling1D(name="mean")(y), name="encoder")
    ids = keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(2, 6, mask_zero=True, name="embed")(ids)
    return keras.Model(ids, layers.Dense(2, name="out")(encoder(x)), name="masked_nested")


def mixed() -> keras.Model:
    inputs = keras.Input((6,), name="x")
    y = layers.Dense(5, activation="relu", dtype="mixed_bfloat16", name="half")(inputs)
    y = layers.Dense(4, dtype="mixed_bfloat16", name="half2")(y)
    return keras.Model(inputs, layers.Dense(2, name="full")(y), name="mixed")


ALL = [
    residual, shared, siamese, sequential, masked, hidden_mask, several, multi_output,
    nested_uint8, masked_nested, mixed,
]  # fmt: skip
