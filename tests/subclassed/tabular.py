"""Recommenders, physics, and models that are mostly ops."""

from __future__ import annotations

import keras
from case import case, floats, ids, register
from keras import layers, ops


@register
class Oscillator(keras.Model):
    """A damped spring, integrated for a fixed number of steps: two weights, all else ops."""

    def __init__(self, steps=4, dt=0.1, **kwargs):
        super().__init__(**kwargs)
        self.steps, self.dt = steps, dt

    def build(self, shape):
        self.stiffness = self.add_weight(shape=(), initializer="ones", name="stiffness")
        self.damping = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.1), name="damping"
        )
        super().build(shape)

    def call(self, state):
        place, speed = state[:, 0], state[:, 1]
        path = [place]
        for _ in range(self.steps):
            force = -self.stiffness * place - ops.softplus(self.damping) * speed
            speed = speed + self.dt * force
            place = place + self.dt * speed
            path.append(place)
        return ops.stack(path, axis=1)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps, "dt": self.dt}


@case(lambda n: floats(n, 2), (2,), (5,))
def physics_of_ops():
    return Oscillator(name="oscillator")


@register
class Fourier(layers.Layer):
    """Features of coordinates, and a gate whose sharpness is learned."""

    def __init__(self, count=3, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.hidden = layers.Dense(8, activation="tanh", name="hidden")

    def build(self, shape):
        self.frequencies = self.add_weight(
            shape=(shape[-1], self.count), initializer="random_normal", name="frequencies"
        )
        self.hidden.build((None, 2 * self.count))
        super().build(shape)

    def call(self, x):
        y = 6.28 * ops.dot(x, self.frequencies)
        return self.hidden(ops.concatenate([ops.sin(y), ops.cos(y)], axis=-1))

    def get_config(self):
        return {**super().get_config(), "count": self.count}


@register
class Field(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.features = Fourier(name="features")
        self.value, self.gradient = layers.Dense(1), layers.Dense(2)

    def call(self, points):
        h = self.features(points)
        return self.value(h) ** 2, ops.cumsum(self.gradient(h), axis=-1)


@case(lambda n, k: floats(n, k, 2), (2, 5), (3, 4))
def neural_field():
    return Field(name="field")


@register
class CrossLayer(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, x0, x):
        return x0 * (ops.matmul(x, self.kernel) + self.bias) + x


@register
class DeepCross(keras.Model):
    """Columns in a dict, one embedding for each name."""

    def __init__(self, sizes=None, **kwargs):
        super().__init__(**kwargs)
        self.sizes = dict(sizes or {"city": 7, "device": 3})
        self.embeddings = {k: layers.Embedding(n, 3, name=k) for k, n in self.sizes.items()}
        self.norm = layers.BatchNormalization()
        self.cross = [CrossLayer(name=f"cross_{i}") for i in range(2)]
        self.deep = keras.Sequential(
            [layers.Dense(6, "relu"), layers.Dense(4, "relu")], name="deep"
        )
        self.out = layers.Dense(1)

    def call(self, columns, training=None):
        x = [self.embeddings[name](columns[name]) for name in self.sizes]
        x = ops.concatenate([*x, self.norm(columns["numbers"], training=training)], axis=-1)
        crossed = x
        for layer in self.cross:
            crossed = layer(x, crossed)
        return ops.sigmoid(self.out(ops.concatenate([crossed, self.deep(x)], axis=-1)))

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes}


def columns(batch):
    city, device = ids(7, batch, 2)[:, 0], ids(3, batch, 2)[:, 0]
    return {"city": city, "device": device, "numbers": floats(batch, 4)}


@case(columns, (3,), (5,))
def deep_and_cross_with_columns():
    return DeepCross(name="dcn")


@register
class TimeSeries(keras.Model):
    """Normalizes each series by its own mean, and undoes that at the end."""

    def __init__(self, ahead=3, **kwargs):
        super().__init__(**kwargs)
        self.ahead = ahead
        self.convs = [layers.Conv1D(4, 2, padding="causal", dilation_rate=d) for d in (1, 2)]
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.out = layers.Dense(ahead)

    def call(self, x):
        mean, std = ops.mean(x, axis=1, keepdims=True), ops.std(x, axis=1, keepdims=True) + 1e-5
        y = (x - mean) / std
        for conv, norm in zip(self.convs, self.norms, strict=True):
            z = ops.gelu(norm(conv(y)))
            y = z + ops.repeat(y, 4, axis=-1) if y.shape[-1] == 1 else z + y
        return self.out(y[:, -1]) * std[:, 0] + mean[:, 0]

    def get_config(self):
        return {**super().get_config(), "ahead": self.ahead}


@case(lambda n, t: floats(n, t, 1), (2, 8), (3, 11))
def time_series_with_static_branch():
    return TimeSeries(name="series")


@register
class Scorer(keras.Model):
    """Scores every pair of two sets; numbers, comparisons and reductions of every kind."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Dense(4, name="embed")

    def call(self, inputs):
        a, b = self.embed(inputs["a"]), self.embed(inputs["b"])
        gap = ops.abs(ops.expand_dims(a, 2) - ops.expand_dims(b, 1))
        scores = -ops.sum(gap, axis=-1)
        best, where = ops.max(scores, axis=-1), ops.argmax(scores, axis=-1)
        top, places = ops.top_k(scores, k=2)
        near = ops.logical_and(scores > -3.0, ops.logical_not(scores > -0.1))
        return {
            "best": best,
            "where": where,
            "top": top - ops.logsumexp(scores, axis=-1, keepdims=True),
            "places": places,
            "near": ops.sum(ops.cast(near, "int32"), axis=(1, 2)),
            "size": ops.cast(ops.shape(scores)[2], "float32") * ops.mean(best, axis=1),
        }


@case(lambda n, s, t: {"a": floats(n, s, 3), "b": floats(n, t, 3)}, (2, 3, 4), (3, 5, 2))
def pairs_and_sizes_as_numbers():
    return Scorer(name="scorer")


@register
class Loops(layers.Layer):
    """Control flow of Keras inside a layer that holds no layers: it stays one node."""

    def build(self, shape):
        self.rate = self.add_weight(shape=(), initializer="ones", name="rate")

    def call(self, x):
        def step(carry, now):
            carry = 0.5 * carry + self.rate * now
            return carry, carry

        _, smooth = ops.scan(step, ops.zeros_like(x[:, 0]), ops.swapaxes(x, 0, 1))
        return ops.swapaxes(smooth, 0, 1)


@register
class Smoother(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.smooth, self.out = Loops(name="smooth"), layers.Dense(2)

    def call(self, x):
        return self.out(self.smooth(x))


@case(lambda n, t: floats(n, t, 3), (2, 4), (3, 6))
def control_flow_in_a_leaf():
    return Smoother(name="smoother")


@register
class Hashing(keras.Model):
    """Integer ops on ids before any weight: hashing, and counts by one-hot."""

    def __init__(self, buckets=6, **kwargs):
        super().__init__(**kwargs)
        self.buckets = buckets
        self.table = layers.Embedding(buckets, 3)

    def call(self, tokens):
        bucket = (tokens * 7 + 3) % self.buckets
        counts = ops.sum(ops.one_hot(bucket, self.buckets), axis=1)
        return ops.mean(self.table(bucket), axis=1), counts

    def get_config(self):
        return {**super().get_config(), "buckets": self.buckets}


@case(lambda n, t: ids(50, n, t), (2, 4), (3, 6))
def integer_ops_on_ids():
    return Hashing(name="hashing")
