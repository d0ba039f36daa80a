"""Audio, time series, graphs, sets, tables, physics."""

from __future__ import annotations

import keras
import numpy as np
from case import case, floats, ids, register
from keras import layers, ops


@register
class WaveBlock(layers.Layer):
    def __init__(self, filters, dilation, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dilation = filters, dilation
        options = {"dilation_rate": dilation, "padding": "causal"}
        self.filter = layers.Conv1D(filters, 2, activation="tanh", name="filter", **options)
        self.gate = layers.Conv1D(filters, 2, activation="sigmoid", name="gate", **options)
        self.mix = layers.Conv1D(filters, 1, name="mix")

    def call(self, x):
        y = self.mix(self.filter(x) * self.gate(x))
        return x + y, y

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "dilation": self.dilation}


@register
class WaveNet(keras.Model):
    def __init__(self, filters=4, dilations=(1, 2, 4), **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dilations = filters, list(dilations)
        self.start = layers.Conv1D(filters, 1)
        self.stack = [WaveBlock(filters, d, name=f"dilation_{d}") for d in dilations]
        self.end = [layers.Conv1D(6, 1, activation="relu"), layers.Conv1D(8, 1)]

    def call(self, audio):
        x, skips = self.start(audio), []
        for block in self.stack:
            x, skip = block(x)
            skips.append(skip)
        x = ops.relu(sum(skips))
        for layer in self.end:
            x = layer(x)
        return x

    def get_config(self):
        own = {"filters": self.filters, "dilations": self.dilations}
        return {**super().get_config(), **own}


@case(lambda n, t: floats(n, t, 1), (2, 12), (3, 9))
def wavenet():
    return WaveNet(name="wavenet")


@register
class GLUBlock(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(2 * units, use_bias=False)
        self.bn = layers.BatchNormalization(momentum=0.9)

    def call(self, x, training=None):
        x = self.bn(self.dense(x), training=training)
        return x[:, : self.units] * ops.sigmoid(x[:, self.units :])

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class TabNet(keras.Model):
    """Each step looks at other columns; a shared block is called in every step."""

    def __init__(self, features=5, units=4, steps=3, **kwargs):
        super().__init__(**kwargs)
        self.features, self.units, self.steps = features, units, steps
        self.bn = layers.BatchNormalization()
        self.shared = GLUBlock(2 * units, name="shared")
        self.own = [GLUBlock(2 * units, name=f"own_{i}") for i in range(steps + 1)]
        self.choose = [layers.Dense(features, name=f"choose_{i}") for i in range(steps)]
        self.out = layers.Dense(2)

    def transform(self, x, i, training):
        x = self.shared(x, training=training)
        return (x + self.own[i](x, training=training)) * np.sqrt(0.5)

    def call(self, x, training=None):
        x = self.bn(x, training=training)
        attend = self.transform(x, 0, training)[:, self.units :]
        prior, decided, entropy = ops.ones_like(x), 0.0, 0.0
        for i in range(self.steps):
            mask = ops.softmax(self.choose[i](attend) * prior)
            prior = prior * (1.5 - mask)
            entropy += ops.mean(ops.sum(-mask * ops.log(mask + 1e-5), axis=1)) / self.steps
            y = self.transform(mask * x, i + 1, training)
            decided += ops.relu(y[:, : self.units])
            attend = y[:, self.units :]
        self.add_loss(1e-2 * entropy)
        return self.out(decided)

    def get_config(self):
        own = {"features": self.features, "units": self.units, "steps": self.steps}
        return {**super().get_config(), **own}


@case(lambda n: floats(n, 5), (4,), (3,))
def tabnet():
    return TabNet(name="tabnet")


@register
class Autoencoder(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential(
            [layers.Flatten(), layers.Dense(3, activation="relu")], name="encoder"
        )
        self.decoder = keras.Sequential(
            [layers.Dense(24, activation="sigmoid"), layers.Reshape((4, 6))], name="decoder"
        )

    def call(self, x):
        return self.decoder(self.encoder(x))


@case(lambda n: floats(n, 4, 6), (2,), (3,))
def autoencoder():
    return Autoencoder(name="autoencoder")


@register
class NBeatsBlock(layers.Layer):
    def __init__(self, back, ahead, kind="trend", **kwargs):
        super().__init__(**kwargs)
        self.back, self.ahead, self.kind = back, ahead, kind
        self.fc = [layers.Dense(6, activation="relu", name=f"fc{i}") for i in range(2)]
        t = np.arange(-back, ahead, dtype="float32") / (back + ahead)
        if kind == "trend":
            basis = np.stack([t**p for p in range(3)])
        else:
            basis = np.stack([f(2 * np.pi * t) for f in (np.sin, np.cos)])
        self.basis = basis.astype("float32")
        self.theta_back = layers.Dense(len(basis), use_bias=False)
        self.theta_ahead = layers.Dense(len(basis), use_bias=False)

    def call(self, x):
        for layer in self.fc:
            x = layer(x)
        back = ops.matmul(self.theta_back(x), self.basis[:, : self.back])
        return back, ops.matmul(self.theta_ahead(x), self.basis[:, self.back :])

    def get_config(self):
        own = {"back": self.back, "ahead": self.ahead, "kind": self.kind}
        return {**super().get_config(), **own}


@register
class NBeats(keras.Model):
    def __init__(self, back=6, ahead=3, **kwargs):
        super().__init__(**kwargs)
        kinds = ["trend", "season", "trend"]
        self.blocks = [NBeatsBlock(back, ahead, k, name=f"{k}{i}") for i, k in enumerate(kinds)]

    def call(self, x):
        forecast = 0
        for block in self.blocks:
            back, ahead = block(x)
            x = x - back
            forecast = forecast + ahead
        return forecast


@case(lambda n: floats(n, 6), (2,), (5,), unneeded=1)
def n_beats_with_constant_tables():
    return NBeats(name="nbeats")


@register
class GraphConv(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.here = layers.Dense(units, name="here")
        self.there = layers.Dense(units, use_bias=False, name="there")

    def call(self, nodes, adjacency):
        degree = ops.sum(adjacency, axis=-1, keepdims=True)
        spread = ops.matmul(adjacency / ops.maximum(degree, 1.0), nodes)
        return ops.elu(self.here(nodes) + self.there(spread))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class GraphNet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = [GraphConv(5, name="conv_0"), GraphConv(4, name="conv_1")]
        self.readout = layers.Dense(2)

    def call(self, nodes, adjacency):
        adjacency = adjacency + ops.eye(ops.shape(adjacency)[1])
        for conv in self.convs:
            nodes = conv(nodes, adjacency)
        return self.readout(ops.mean(nodes, axis=1))


@case(lambda n, k: (floats(n, k, 3), (floats(n, k, k) > 0).astype("float32")), (2, 4), (3, 6))
def graph_convolution():
    return GraphNet(name="gcn")


@register
class DeepSets(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.phi = keras.Sequential([layers.Dense(6, "relu"), layers.Dense(5)], name="phi")
        self.rho = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(1)], name="rho")

    def call(self, inputs):
        mask = ops.cast(inputs["valid"], "float32")[..., None]
        total = ops.sum(self.phi(inputs["items"]) * mask, axis=1)
        return self.rho(total / (ops.sum(mask, axis=1) + 1e-6))


@case(lambda n, k: {"items": floats(n, k, 2), "valid": ids(2, n, k) > 0}, (2, 4), (3, 7))
def deep_sets():
    return DeepSets(name="sets")
