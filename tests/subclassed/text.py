"""Language models as users write them."""

from __future__ import annotations

import keras
from case import case, floats, ids, register
from keras import layers, ops


@register
class CausalBlock(layers.Layer):
    """Attention written out: heads by reshape, the mask from the length."""

    def __init__(self, dim, heads, drop=0.1, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads, self.drop = dim, heads, drop
        self.norm1 = layers.LayerNormalization(name="norm1")
        self.qkv = layers.Dense(3 * dim, use_bias=False, name="qkv")
        self.project = layers.Dense(dim, name="project")
        self.norm2 = layers.LayerNormalization(name="norm2")
        self.mlp = keras.Sequential(
            [layers.Dense(4 * dim, activation="gelu"), layers.Dense(dim)], name="mlp"
        )
        self.dropout = layers.Dropout(drop, seed=1)

    def attend(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        size = self.dim // self.heads
        qkv = ops.reshape(self.qkv(x), (batch, length, 3, self.heads, size))
        q, k, v = (ops.transpose(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3))
        scores = ops.matmul(q, ops.swapaxes(k, 2, 3)) / size**0.5
        where = ops.arange(length)
        causal = where[:, None] >= where[None, :]
        scores = ops.where(causal, scores, -1e9)
        out = ops.matmul(ops.softmax(scores, axis=-1), v)
        return self.project(
            ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (batch, length, self.dim))
        )

    def call(self, x, training=None):
        x = x + self.dropout(self.attend(self.norm1(x)), training=training)
        return x + self.dropout(self.mlp(self.norm2(x)), training=training)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads, "drop": self.drop}


@register
class GPT(keras.Model):
    def __init__(self, vocabulary=11, dim=8, depth=2, context=16, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.dim, self.depth, self.context = vocabulary, dim, depth, context
        self.tokens = layers.Embedding(vocabulary, dim, name="tokens")
        self.positions = layers.Embedding(context, dim, name="positions")
        self.blocks = [CausalBlock(dim, 2, name=f"block_{i}") for i in range(depth)]
        self.norm = layers.LayerNormalization(name="norm")

    def call(self, tokens, training=None):
        x = self.tokens(tokens) + self.positions(ops.arange(ops.shape(tokens)[1]))
        for block in self.blocks:
            x = block(x, training=training)
        return ops.matmul(self.norm(x), ops.transpose(self.tokens.embeddings))

    def get_config(self):
        own = {"vocabulary": self.vocabulary, "dim": self.dim}
        own |= {"depth": self.depth, "context": self.context}
        return {**super().get_config(), **own}


@case(lambda n, t: ids(11, n, t), (2, 7), (3, 5))
def gpt_with_tied_head():
    return GPT(name="gpt")


@register
class BertLayer(layers.Layer):
    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.attention = layers.MultiHeadAttention(heads, dim // heads, name="attention")
        self.norm1, self.norm2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.ffn_1 = layers.Dense(2 * dim, activation=keras.activations.gelu, name="ffn_1")
        self.ffn_2 = layers.Dense(dim, name="ffn_2")

    def call(self, x, mask=None):
        attend = None if mask is None else mask[:, None, :]
        x = self.norm1(x + self.attention(x, x, attention_mask=attend))
        return self.norm2(x + self.ffn_2(self.ffn_1(x)))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


@register
class Bert(keras.Model):
    def __init__(self, vocabulary=13, dim=8, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.dim, self.depth = vocabulary, dim, depth
        self.tokens = layers.Embedding(vocabulary, dim)
        self.segments = layers.Embedding(2, dim)
        self.norm = layers.LayerNormalization()
        self.encoder = [BertLayer(dim, 2, name=f"layer_{i}") for i in range(depth)]
        self.pooler = layers.Dense(dim, activation="tanh", name="pooler")

    def build(self, shapes):
        self.positions = self.add_weight(
            shape=(32, self.dim), initializer="glorot_uniform", name="positions"
        )
        super().build(shapes)

    def call(self, inputs):
        tokens, mask = inputs["token_ids"], ops.cast(inputs["padding_mask"], "bool")
        x = self.tokens(tokens) + self.segments(inputs["segment_ids"])
        x = self.norm(x + self.positions[: ops.shape(tokens)[1]])
        for layer in self.encoder:
            x = layer(x, mask=mask)
        return {"sequence": x, "pooled": self.pooler(x[:, 0, :])}

    def get_config(self):
        own = {"vocabulary": self.vocabulary, "dim": self.dim, "depth": self.depth}
        return {**super().get_config(), **own}


def bert_inputs(batch, length):
    tokens = ids(13, batch, length)
    mask = (tokens != 0).astype("int32")
    return {"token_ids": tokens, "segment_ids": tokens % 2, "padding_mask": mask}


@case(bert_inputs, (2, 6), (3, 9))
def bert():
    return Bert(name="bert")


@register
class Encoder(layers.Layer):
    def __init__(self, vocabulary, units, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.units = vocabulary, units
        self.embed = layers.Embedding(vocabulary, units, mask_zero=True)
        self.rnn = layers.GRU(units, return_sequences=True, return_state=True)

    def call(self, source):
        return self.rnn(self.embed(source))

    def get_config(self):
        return {**super().get_config(), "vocabulary": self.vocabulary, "units": self.units}


@register
class Decoder(layers.Layer):
    def __init__(self, vocabulary, units, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.units = vocabulary, units
        self.embed = layers.Embedding(vocabulary, units, mask_zero=True)
        self.rnn = layers.GRU(units, return_sequences=True)
        self.attention = layers.Attention(name="attention")
        self.mix = layers.Dense(units, activation="tanh")
        self.out = layers.Dense(vocabulary, name="out")

    def call(self, target, memory, state):
        x = self.rnn(self.embed(target), initial_state=state)
        context = self.attention([x, memory])
        return self.out(self.mix(ops.concatenate([x, context], axis=-1)))

    def get_config(self):
        return {**super().get_config(), "vocabulary": self.vocabulary, "units": self.units}


@register
class Seq2Seq(keras.Model):
    def __init__(self, vocabulary=9, units=6, **kwargs):
        super().__init__(**kwargs)
        self.encoder = Encoder(vocabulary, units, name="encoder")
        self.decoder = Decoder(vocabulary, units, name="decoder")

    def call(self, source, target):
        memory, state = self.encoder(source)
        return self.decoder(target, memory, state)


@case(lambda n, s, t: (ids(9, n, s), ids(9, n, t)), (2, 5, 4), (3, 7, 6))
def seq2seq_with_attention():
    return Seq2Seq(name="seq2seq")


@register
class Sentiment(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(10, 6, mask_zero=True)
        self.drop = layers.SpatialDropout1D(0.2, seed=2)
        self.lstm = layers.LSTM(5, return_sequences=True)
        self.last = layers.LSTM(4)
        self.out = layers.Dense(1, activation="sigmoid")

    def call(self, tokens, training=False):
        x = self.drop(self.embed(tokens), training=training)
        return self.out(self.last(self.lstm(x)))


@case(lambda n, t: ids(10, n, t), (2, 6), (4, 8))
def rnn_classifier_with_hidden_masks():
    return Sentiment(name="sentiment")


@register
class Tower(layers.Layer):
    def __init__(self, vocabulary, dim, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.dim = vocabulary, dim
        self.embed = layers.Embedding(vocabulary, dim)
        self.dense = layers.Dense(dim, activation="relu", name="dense")

    def call(self, tokens, weights):
        x = ops.sum(self.embed(tokens) * weights[..., None], axis=1)
        return ops.normalize(self.dense(x), axis=-1)

    def get_config(self):
        return {**super().get_config(), "vocabulary": self.vocabulary, "dim": self.dim}


@register
class TwoTower(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.item = Tower(8, 4, name="query"), Tower(12, 4, name="item")

    def build(self, shapes):
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")
        super().build(shapes)

    def call(self, inputs):
        query = self.query(inputs["query"]["tokens"], inputs["query"]["weights"])
        item = self.item(inputs["item"]["tokens"], inputs["item"]["weights"])
        return ops.sum(query * item, axis=-1, keepdims=True) * ops.exp(self.temperature)


def pairs(batch, length):
    query = {"tokens": ids(8, batch, length), "weights": abs(floats(batch, length))}
    item = {"tokens": ids(12, batch, length + 1), "weights": abs(floats(batch, length + 1))}
    return {"query": query, "item": item}


@case(pairs, (2, 3), (4, 5))
def two_tower():
    return TwoTower(name="towers")


@register
class CharCNN(keras.Model):
    def __init__(self, sizes=(2, 3), **kwargs):
        super().__init__(**kwargs)
        self.sizes = list(sizes)
        self.embed = layers.Embedding(20, 5)
        self.convs = [layers.Conv1D(4, s, padding="same", activation="relu") for s in sizes]
        self.pool = layers.GlobalMaxPooling1D()
        self.highway = layers.Dense(8, activation="relu")
        self.gate = layers.Dense(
            8, activation="sigmoid", bias_initializer=keras.initializers.Constant(-1)
        )
        self.out = layers.Dense(3)

    def call(self, characters):
        x = self.embed(characters)
        x = ops.concatenate([self.pool(conv(x)) for conv in self.convs], axis=1)
        gate = self.gate(x)
        return self.out(gate * self.highway(x) + (1 - gate) * x)

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes}


@case(lambda n, t: ids(20, n, t), (2, 9), (3, 12))
def char_cnn():
    return CharCNN(name="char_cnn")
