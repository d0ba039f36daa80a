"""A small transformer of layers that hold layers, written as users write it, for edits inside them."""

from __future__ import annotations

import keras
from keras import layers, ops

WIDTH = 8
HEADS = 2
register = keras.saving.register_keras_serializable("blocks")


@register
class Attention(layers.Layer):
    """Causal self-attention with its own projections, and a weight that scales what it gives."""

    def build(self, shape):
        self.query = layers.Dense(WIDTH, name="query")
        self.key = layers.Dense(WIDTH, name="key")
        self.value = layers.Dense(WIDTH, name="value")
        self.out = layers.Dense(WIDTH, name="out")
        self.gain = self.add_weight(shape=(WIDTH,), initializer="ones", name="gain")
        for layer in (self.query, self.key, self.value, self.out):
            layer.build(shape)

    def call(self, x):
        length = ops.shape(x)[1]
        heads = lambda y: ops.reshape(y, (-1, length, HEADS, WIDTH // HEADS))  # noqa: E731
        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
        steps = ops.arange(length)
        scores = ops.where(steps[None, :] <= steps[:, None], scores, -1e9)
        mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
        return self.out(ops.reshape(mixed, (-1, length, WIDTH))) * self.gain


@register
class Mlp(layers.Layer):
    """Two layers, with the activation as a layer of its own between them."""

    def build(self, shape):
        self.up = layers.Dense(2 * WIDTH, name="up")
        self.act = layers.ReLU(name="act")
        self.down = layers.Dense(WIDTH, name="down")
        self.up.build(shape)
        self.down.build((*shape[:-1], 2 * WIDTH))

    def call(self, x):
        return self.down(self.act(self.up(x)))


@register
class Block(layers.Layer):
    """A block of a transformer; both parts add to what comes in."""

    def build(self, shape):
        self.attention = Attention(name="attention")
        self.mlp = Mlp(name="mlp")
        self.norm = layers.LayerNormalization(name="norm")
        self.drop = layers.Dropout(0.1, seed=1, name="drop")
        for layer in (self.attention, self.mlp, self.norm):
            layer.build(shape)

    def call(self, x):
        x = x + self.drop(self.attention(self.norm(x)))
        return x + self.mlp(x)


def transformer(depth: int = 4, twice: bool = False) -> keras.Model:
    """Return a language model of blocks, of any batch and length; `twice` calls the last one again."""
    keras.utils.set_random_seed(3)
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(7, WIDTH, name="embed")(ids)
    for i in range(depth):
        block = Block(name=f"layer_{i}")
        x = block(x)
    if twice:
        x = block(x)
    model = keras.Model(ids, layers.Dense(3, name="head")(x), name="gpt")
    rng = keras.random.SeedGenerator(5)
    for weight in model.trainable_weights:  # a bias of zeros hides mistakes
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape, seed=rng))
    return model


def by_hand(model: keras.Model, ids, see=lambda path, value: value, calls=None):
    """Run the model with its own layers, block by block, as its code says.

    Args:
        model: What `transformer` returned.
        ids: Token ids.
        see: Gets each value by its path, and returns what is used in its place.
        calls: The names of the blocks to run; all of them by default.
    """
    x = model.get_layer("embed")(ids)
    blocks = [layer.name for layer in model.layers if isinstance(layer, Block)]
    for name in blocks if calls is None else calls:
        block = model.get_layer(name)
        a = block.attention
        y = see(f"{name}/norm", block.norm(x))
        length = ids.shape[1]
        q, k, v = (
            ops.reshape(
                see(f"{name}/attention/{layer.name}", layer(y)),
                (-1, length, HEADS, WIDTH // HEADS),
            )
            for layer in (a.query, a.key, a.value)
        )
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
        steps = ops.arange(length)
        scores = ops.where(steps[None, :] <= steps[:, None], scores, -1e9)
        mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
        y = a.out(ops.reshape(mixed, (-1, length, WIDTH))) * a.gain
        x = see(f"{name}/add", x + see(f"{name}/attention", y))
        up = see(f"{name}/mlp/up", block.mlp.up(x))
        y = block.mlp.down(see(f"{name}/mlp/act", ops.relu(up)))
        x = see(name, x + see(f"{name}/mlp", y))
    return model.get_layer("head")(x)
