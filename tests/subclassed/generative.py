"""Generative models as users write them."""

from __future__ import annotations

import math

import keras
from case import case, floats, register
from keras import layers, ops


@register
class Sampling(layers.Layer):
    """Draws noise in `call`, with a seed that is state."""

    def __init__(self, seed=1, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, mean, log_variance):
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@register
class VAE(keras.Model):
    def __init__(self, latent=2, **kwargs):
        super().__init__(**kwargs)
        self.latent = latent
        self.encoder = keras.Sequential([layers.Dense(8, activation="relu")], name="encoder")
        self.mean, self.log_variance = layers.Dense(latent), layers.Dense(latent)
        self.sampling = Sampling()
        self.decoder = keras.Sequential(
            [layers.Dense(8, activation="relu"), layers.Dense(6)], name="decoder"
        )
        self.kl_tracker = keras.metrics.Mean(name="kl")

    @property
    def metrics(self):
        return [*super().metrics, self.kl_tracker]

    def call(self, x):
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        kl = -0.5 * ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=-1)
        self.add_loss(0.1 * ops.mean(kl))
        return self.decoder(self.sampling(mean, log_variance))

    def get_config(self):
        return {**super().get_config(), "latent": self.latent}


@case(lambda n: floats(n, 6), (3,), (5,))
def vae():
    return VAE(name="vae")


@register
class NoisyAutoencoder(keras.Model):
    """Draws its noise in the model's own call, with the shape of the input."""

    def __init__(self, amount=0.3, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount
        self.seeds = keras.random.SeedGenerator(3)
        self.encode = layers.Conv1D(4, 3, strides=2, padding="same", activation="relu")
        self.decode = layers.Conv1DTranspose(2, 3, strides=2, padding="same")

    def call(self, x):
        noise = keras.random.uniform(ops.shape(x), -1, 1, seed=self.seeds)
        return self.decode(self.encode(x + self.amount * noise))

    def get_config(self):
        return {**super().get_config(), "amount": self.amount}


@case(lambda n, t: floats(n, t, 2), (2, 8), (3, 6))
def noise_in_the_model_itself():
    return NoisyAutoencoder(name="noisy")


@register
class Generator(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2 * 2 * 4)
        self.bn = layers.BatchNormalization()
        self.up = layers.UpSampling2D()
        self.conv = layers.Conv2D(3, 3, padding="same", activation="tanh")

    def call(self, z, training=None):
        x = ops.reshape(self.dense(z), (-1, 2, 2, 4))
        x = ops.leaky_relu(self.bn(x, training=training), 0.2)
        return self.conv(self.up(x))


@register
class Discriminator(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, 2, padding="same")
        self.drop = layers.Dropout(0.3, seed=9)
        self.score = layers.Dense(1)

    def call(self, image, training=None):
        x = self.drop(ops.leaky_relu(self.conv(image), 0.2), training=training)
        return self.score(ops.reshape(x, (ops.shape(x)[0], -1)))


@register
class GAN(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = Generator(name="generator")
        self.discriminator = Discriminator(name="discriminator")

    def call(self, inputs, training=None):
        fake = self.generator(inputs["z"], training=training)
        real = self.discriminator(inputs["image"], training=training)
        return {
            "fake": fake,
            "on_fake": self.discriminator(fake, training=training),
            "on_real": real,
        }


@case(lambda n: {"z": floats(n, 3), "image": floats(n, 4, 4, 3)}, (2,), (5,))
def gan():
    return GAN(name="gan")


@register
class TimeEmbedding(layers.Layer):
    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.dense = layers.Dense(dim, activation="silu", name="dense")

    def call(self, t):
        half = self.dim // 2
        rates = ops.exp(-math.log(1000.0) * ops.arange(half, dtype="float32") / half)
        angles = ops.cast(t, "float32") * rates[None, :]
        return self.dense(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


@register
class TimedBlock(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.norm = layers.GroupNormalization(2, name="norm")
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.time = layers.Dense(2 * filters, name="time")
        self.out = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros", name="out")
        self.skip = layers.Conv2D(filters, 1, name="skip")

    def call(self, x, time):
        y = self.conv(ops.silu(self.norm(x)))
        scale, shift = ops.split(self.time(time)[:, None, None, :], 2, axis=-1)
        y = y * (1 + scale) + shift
        return self.out(ops.silu(y)) + self.skip(x)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class SpatialAttention(layers.Layer):
    """Attention between all pixels: height and width become one axis and come back."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.norm = layers.GroupNormalization(1, name="norm")
        self.q, self.k, self.v, self.o = (layers.Dense(filters, name=n) for n in "qkvo")

    def call(self, x):
        b, h, w, c = ops.shape(x)
        y = self.norm(x)
        q, k, v = (ops.reshape(d(y), (b, h * w, c)) for d in (self.q, self.k, self.v))
        scores = ops.einsum("bic,bjc->bij", q, k) * float(c) ** -0.5
        y = ops.matmul(ops.softmax(scores, axis=-1), v)
        return x + self.o(ops.reshape(y, (b, h, w, c)))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class DiffusionUNet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.time = TimeEmbedding(8, name="time")
        self.stem = layers.Conv2D(4, 3, padding="same")
        self.down = [TimedBlock(4, name="down_0"), TimedBlock(8, name="down_1")]
        self.middle = TimedBlock(8, name="middle")
        self.attention = SpatialAttention(8, name="attention")
        self.up = [TimedBlock(8, name="up_1"), TimedBlock(4, name="up_0")]
        self.out = layers.Conv2D(2, 1)

    def call(self, inputs):
        image, step = inputs
        time, x, skips = self.time(step), self.stem(image), []
        for block in self.down:
            x = block(x, time)
            skips.append(x)
            x = ops.average_pool(x, 2, strides=2)
        x = self.attention(self.middle(x, time))
        for block in self.up:
            x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
            x = block(ops.concatenate([x, skips.pop()], axis=-1), time)
        return self.out(x)


def noisy(batch, height, width):
    return [floats(batch, height, width, 2), 10 * abs(floats(batch, 1)).astype("int32")]


@case(noisy, (2, 4, 8), (3, 8, 4))
def diffusion_unet():
    return DiffusionUNet(name="diffusion")
