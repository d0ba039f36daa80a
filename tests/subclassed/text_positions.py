"""Language models with positions and masks of their own, recurrent taggers, retrieval."""

from __future__ import annotations

import math

import keras
from case import case, floats, ids, register
from keras import layers, ops


@register
class RelativeBias(layers.Layer):
    """A learned bias for each bucket of distances, as T5 has: few for far, one each for near."""

    def __init__(self, heads, buckets=8, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.buckets = heads, buckets

    def build(self, *shapes):
        self.table = self.add_weight(
            shape=(self.buckets, self.heads), initializer="random_normal", name="table"
        )

    def call(self, query, key):
        distance = ops.arange(ops.shape(key)[1])[None, :] - ops.arange(ops.shape(query)[1])[:, None]
        half = self.buckets // 2
        side = ops.cast(distance > 0, "int32") * half
        far = ops.cast(ops.log(ops.cast(ops.abs(distance) + 1, "float32")) / math.log(2), "int32")
        bucket = side + ops.minimum(far, half - 1)
        return ops.transpose(ops.take(self.table, bucket, axis=0), (2, 0, 1))[None]

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "buckets": self.buckets}


@register
class T5Attention(layers.Layer):
    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.q = layers.EinsumDense("btd,dhk->bhtk", (heads, None, dim // heads), name="q")
        self.k = layers.EinsumDense("btd,dhk->bhtk", (heads, None, dim // heads), name="k")
        self.v = layers.EinsumDense("btd,dhk->bhtk", (heads, None, dim // heads), name="v")
        self.o = layers.EinsumDense("bhtk,hkd->btd", (None, dim), name="o")
        self.bias = RelativeBias(heads, name="bias")

    def call(self, x, memory=None, bias=None):
        memory = x if memory is None else memory
        if bias is None:
            bias = self.bias(x, memory)
        scores = ops.einsum("bhqk,bhsk->bhqs", self.q(x), self.k(memory)) + bias
        out = ops.einsum("bhqs,bhsk->bhqk", ops.softmax(scores), self.v(memory))
        return self.o(out), bias

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


@register
class T5Encoder(keras.Model):
    """The first layer makes the bias, the next ones get it."""

    def __init__(self, dim=8, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(12, dim)
        self.attention = [T5Attention(dim, 2, name=f"attention_{i}") for i in range(depth)]
        self.norms = [layers.RMSNormalization() for _ in range(depth + 1)]
        self.drop = layers.Dropout(0.1, seed=3)

    def call(self, tokens):
        x, bias = self.embed(tokens), None
        for attention, norm in zip(self.attention, self.norms[:-1], strict=True):
            y, bias = attention(norm(x), bias=bias)
            x = x + self.drop(y)
        return self.norms[-1](x)


# The second layer never asks for its own bias: that layer inside it is never built.
@case(lambda n, t: ids(12, n, t), (2, 6), (3, 8))
def t5_relative_bias():
    return T5Encoder(name="t5")


@register
class RMSNorm(layers.Layer):
    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        x32 = ops.cast(x, "float32")
        root = ops.rsqrt(ops.mean(ops.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x32 * root, x.dtype) * self.scale

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def rotate(x):
    """Turn pairs of channels by their position."""
    length, size = ops.shape(x)[1], x.shape[-1]
    frequencies = 10000.0 ** (-ops.arange(0, size, 2, dtype="float32") / size)
    angles = ops.cast(ops.arange(length), "float32")[:, None] * frequencies[None, :]
    cos, sin = ops.cos(angles)[None, :, None, :], ops.sin(angles)[None, :, None, :]
    a, b = x[..., ::2], x[..., 1::2]
    turned = ops.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return ops.reshape(turned, ops.shape(x))


@register
class LlamaLayer(layers.Layer):
    def __init__(self, dim, heads, shared, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads, self.shared = dim, heads, shared
        size = dim // heads
        self.norm1, self.norm2 = RMSNorm(name="norm1"), RMSNorm(name="norm2")
        self.query = layers.Dense(heads * size, use_bias=False, name="query")
        self.key = layers.Dense(heads // shared * size, use_bias=False, name="key")
        self.value = layers.Dense(heads // shared * size, use_bias=False, name="value")
        self.output_dense = layers.Dense(dim, use_bias=False, name="output_dense")
        self.gate = layers.Dense(2 * dim, use_bias=False, name="gate")
        self.up = layers.Dense(2 * dim, use_bias=False, name="up")
        self.down = layers.Dense(dim, use_bias=False, name="down")

    def heads_of(self, x, count):
        return ops.reshape(x, (ops.shape(x)[0], ops.shape(x)[1], count, self.dim // self.heads))

    def call(self, x):
        y = self.norm1(x)
        query = rotate(self.heads_of(self.query(y), self.heads))
        key = rotate(self.heads_of(self.key(y), self.heads // self.shared))
        value = self.heads_of(self.value(y), self.heads // self.shared)
        key, value = (ops.repeat(v, self.shared, axis=2) for v in (key, value))
        y = ops.dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output_dense(ops.reshape(y, ops.shape(x)))
        y = self.norm2(x)
        return x + self.down(ops.silu(self.gate(y)) * self.up(y))

    def get_config(self):
        own = {"dim": self.dim, "heads": self.heads, "shared": self.shared}
        return {**super().get_config(), **own}


@register
class Llama(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.ReversibleEmbedding(14, 8, name="embed")
        self.decoder = [LlamaLayer(8, 4, 2, name=f"layer_{i}") for i in range(2)]
        self.norm = RMSNorm(name="norm")

    def call(self, tokens):
        x = self.embed(tokens)
        for layer in self.decoder:
            x = layer(x)
        return self.embed(self.norm(x), reverse=True)


@case(lambda n, t: ids(14, n, t), (2, 5), (3, 7))
def llama():
    return Llama(name="llama")


@register
class MaskedLM(keras.Model):
    """Predicts the tokens at some places; its head is the embedding again."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(10, 6, name="embed")
        self.mixer = layers.Conv1D(6, 3, padding="same", activation="gelu", name="mixer")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shapes):
        self.bias = self.add_weight(shape=(10,), initializer="zeros", name="bias")
        super().build(shapes)

    def call(self, inputs):
        x = self.mixer(self.embed(inputs["tokens"]))
        x = ops.take_along_axis(x, inputs["places"][..., None], axis=1)
        return self.norm(x) @ ops.transpose(self.embed.embeddings) + self.bias


def masked(batch, length, count):
    return {"tokens": ids(10, batch, length), "places": ids(length, batch, count)}


@case(masked, (2, 6, 2), (3, 8, 4))
def masked_lm_head():
    return MaskedLM(name="masked_lm")


@register
class Tagger(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(15, 6, mask_zero=True)
        self.rnn = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")
        self.out = layers.TimeDistributed(layers.Dense(3), name="each")

    def build(self, shape):
        self.transitions = self.add_weight(
            shape=(3, 3), initializer="glorot_uniform", name="transitions"
        )
        super().build(shape)

    def call(self, tokens):
        scores = self.out(self.rnn(self.embed(tokens)))
        before = ops.pad(scores[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return scores + ops.softmax(before, axis=-1) @ self.transitions


@case(lambda n, t: ids(15, n, t), (2, 5), (3, 7))
def bidirectional_and_time_distributed():
    return Tagger(name="tagger")


@register
class Reader(keras.Model):
    """Marks where an answer starts and ends; masks come as the `mask` argument of Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.masking = layers.Masking()
        self.rnn = layers.GRU(4, return_sequences=True)
        self.span = layers.Dense(2)

    def call(self, x):
        x = self.masking(x)
        start, end = ops.unstack(self.span(self.rnn(x)), 2, axis=-1)
        return start, end


def padded(batch, length):
    x = floats(batch, length, 3)
    x[:, -1] = 0
    x[0, -2:] = 0
    return x


@case(padded, (2, 5), (3, 6))
def masking_and_tuple_output():
    return Reader(name="reader")
