"""Flows, codebooks, networks that make weights for others."""

from __future__ import annotations

import keras
import numpy as np
from case import case, floats, register
from keras import layers, ops


@register
class Coupling(layers.Layer):
    def __init__(self, dim, flip=False, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.flip = dim, flip
        self.net = keras.Sequential(
            [layers.Dense(8, activation="tanh"), layers.Dense(dim)], name="net"
        )

    def call(self, x, inverse=False):
        a, b = ops.split(x, 2, axis=-1)
        if self.flip:
            a, b = b, a
        scale, shift = ops.split(self.net(a), 2, axis=-1)
        scale = ops.tanh(scale)
        b = (b - shift) * ops.exp(-scale) if inverse else b * ops.exp(scale) + shift
        log_det = ops.sum(scale, axis=-1, keepdims=True)
        parts = [b, a] if self.flip else [a, b]
        return ops.concatenate(parts, axis=-1), -log_det if inverse else log_det

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "flip": self.flip}


@register
class RealNVP(keras.Model):
    """There and back again: each layer is called twice, with another argument."""

    def __init__(self, dim=4, depth=3, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.depth = dim, depth
        self.couplings = [Coupling(dim, bool(i % 2), name=f"flow_{i}") for i in range(depth)]

    def call(self, x):
        z, total = x, 0.0
        for layer in self.couplings:
            z, log_det = layer(z)
            total = total + log_det
        back = z
        for layer in reversed(self.couplings):
            back, _ = layer(back, inverse=True)
        prior = -0.5 * ops.sum(z**2 + np.log(2 * np.pi), axis=-1, keepdims=True)
        return {"z": z, "log_prob": prior + total, "back": back}

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "depth": self.depth}


@case(lambda n: floats(n, 4), (3,), (4,))
def normalizing_flow():
    return RealNVP(name="flow")


@register
class VectorQuantizer(layers.Layer):
    def __init__(self, codes, dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.codes, self.dim, self.beta = codes, dim, beta

    def build(self, shape):
        self.codebook = self.add_weight(
            shape=(self.codes, self.dim), initializer="random_uniform", name="codebook"
        )

    def call(self, x):
        distance = (
            ops.sum(x**2, axis=-1, keepdims=True)
            - 2 * ops.matmul(x, ops.transpose(self.codebook))
            + ops.sum(self.codebook**2, axis=-1)
        )
        chosen = ops.argmin(distance, axis=-1)
        found = ops.matmul(ops.one_hot(chosen, self.codes), self.codebook)
        self.add_loss(self.beta * ops.mean((ops.stop_gradient(found) - x) ** 2))
        self.add_loss(ops.mean((found - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(found - x), chosen

    def get_config(self):
        own = {"codes": self.codes, "dim": self.dim, "beta": self.beta}
        return {**super().get_config(), **own}


@register
class VQVAE(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = layers.Conv2D(3, 2, 2)
        self.quantizer = VectorQuantizer(5, 3, name="quantizer")
        self.decoder = layers.Conv2DTranspose(1, 2, 2)

    def call(self, images):
        x, chosen = self.quantizer(self.encoder(images))
        return self.decoder(x)


@case(lambda n, h: floats(n, h, 6, 1), (2, 4), (3, 8))
def vq_vae_with_losses_in_a_layer():
    return VQVAE(name="vqvae")


@register
class Mapping(layers.Layer):
    """A style becomes the gains of a convolution: one layer makes weights for the next."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.style = layers.Dense(filters, bias_initializer="ones", name="style")

    def build(self, shapes):
        channels = shapes[0][-1]
        self.kernel = self.add_weight(
            shape=(3, 3, channels, self.filters), initializer="he_normal", name="kernel"
        )
        self.style.build(shapes[1])
        super().build(shapes)

    def call(self, inputs):
        x, style = inputs
        gain = self.style(style)
        norm = ops.sqrt(ops.sum(self.kernel**2, axis=(0, 1, 2)) + 1e-6)
        y = ops.conv(x, self.kernel / norm, strides=1, padding="same", data_format="channels_last")
        return y * gain[:, None, None, :]

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class StyleGenerator(keras.Model):
    """Starts from a learned constant, not from an input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mapping = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(4)], name="mapping")
        self.synthesis = [Mapping(5, name="style_0"), Mapping(3, name="style_1")]

    def build(self, shape):
        self.start = self.add_weight(shape=(1, 4, 4, 4), initializer="ones", name="start")
        super().build(shape)

    def call(self, z):
        style = self.mapping(ops.normalize(z, axis=-1))
        x = ops.tile(self.start, (ops.shape(z)[0], 1, 1, 1))
        for layer in self.synthesis:
            x = ops.leaky_relu(layer([x, style]))
        return ops.tanh(x)


@case(lambda n: floats(n, 3), (2,), (3,))
def style_generator():
    return StyleGenerator(name="style")
