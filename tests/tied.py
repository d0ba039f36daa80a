"""Models with two weights that may be one, and what must hold of every tie."""

from __future__ import annotations

import io
import zipfile

import h5py
import keras
import numpy as np
from donor import arrays
from keras import layers

import keras_graft as kg


def language() -> keras.Model:
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(11, 4, mask_zero=True, name="embedding")(ids)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(ids, layers.Dense(11, name="lm_head")(x), name="language")


def model_of(source, *, mask=False, **kwargs) -> keras.Model:
    """A small language model: the source embeds or maps, and a `TiedDense` gives back."""
    if isinstance(source, layers.Dense):
        x = keras.Input((5, 11), name="x")
    else:
        x = keras.Input((5,), dtype="int32", name="x")
    y = layers.LayerNormalization(name="norm")(source(x))
    return keras.Model(x, kg.layers.TiedDense(source, name="head", **kwargs)(y), name="lm")


def two_models() -> keras.Model:
    """An encoder and a decoder in models of their own."""
    ids = keras.Input((5,), dtype="int32", name="tokens")
    encoder = keras.Model(ids, layers.Embedding(11, 4, name="embedding")(ids), name="encoder")
    h = keras.Input((5, 4), name="h")
    y = layers.Dense(4, activation="tanh", name="mix")(h)
    decoder = keras.Model(h, layers.Dense(11, name="lm_head")(y), name="decoder")
    x = keras.Input((5,), dtype="int32", name="ids")
    return keras.Model(x, decoder(encoder(x)), name="two_models")


def attention() -> keras.Model:
    x = keras.Input((5, 4), name="x")
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="attend")


def recurrent() -> keras.Model:
    x = keras.Input((5, 4), name="x")
    y = layers.LSTM(4, return_sequences=True, name="first")(x)
    y = layers.LSTM(4, return_sequences=True, name="second")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="recurrent")


def convolutions() -> keras.Model:
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(x)
    y = layers.Conv2D(4, 3, padding="same", name="a")(y)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Conv2D(4, 3, padding="same", name="b")(y)
    return keras.Model(x, layers.GlobalAveragePooling2D(name="pool")(y), name="convolutions")


CASES = {
    "language": (language, "lm_head/kernel", "embedding/embeddings", "transpose"),
    "embedding from head": (language, "embedding/embeddings", "lm_head/kernel", "transpose"),
    "two models": (two_models, "decoder/lm_head/kernel", "encoder/embedding/embeddings", "transpose"),
    "inside one layer": (attention, "attention/query/kernel", "attention/key/kernel", None),
    "cells": (recurrent, "second/lstm_cell/kernel", "first/lstm_cell/kernel", None),
    "two in one cell": (recurrent, "second/kernel", "first/recurrent_kernel", None),
    "convolutions": (convolutions, "b/kernel", "a/kernel", None),
}  # fmt: skip


def in_file(path) -> dict[str, tuple[int, ...]]:
    """Return the weights in a `.keras` file or a weights file, by name, with their shapes."""
    found = {}

    def take(name, item):
        other = name.startswith("optimizer") or "seed_generator" in name
        if isinstance(item, h5py.Dataset) and not other:
            found[name] = item.shape

    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as file:
            path = io.BytesIO(file.read("model.weights.h5"))
    with h5py.File(path) as file:
        file.visititems(take)
    return found


def size_in_file(path) -> int:
    """Return how many numbers a file holds, optimizer apart."""
    return sum(int(np.prod(shape)) for shape in in_file(path).values())


def train(model, x, y, steps: int = 1, optimizer=None) -> None:
    """Take some steps on one batch."""
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss="mse")
    for _ in range(steps):
        model.train_on_batch(x, y)


def target_like(model, x):
    """Return something to learn, the same for every model of these outputs."""
    (out,) = arrays(model(x))
    return np.random.default_rng(1).standard_normal(out.shape).astype("float32")
