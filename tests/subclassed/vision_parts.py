"""Vision models whose blocks split, join and gate channels."""

from __future__ import annotations

import keras
from case import case, floats, register
from keras import layers, ops


def conv_bn(filters, size=3, stride=1, name=None):
    """A convolution with its norm, as a helper that returns a Sequential."""
    return keras.Sequential(
        [
            layers.Conv2D(filters, size, stride, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("silu"),
        ],
        name=name,
    )


@register
class Bottleneck(keras.layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.a, self.b = conv_bn(filters, 1, name="a"), conv_bn(filters, 3, name="b")

    def call(self, x):
        return x + self.b(self.a(x))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class CSPBlock(keras.layers.Layer):
    """One half of the channels goes through bottlenecks, the other half past them."""

    def __init__(self, filters, count=2, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.count = filters, count
        self.inp = conv_bn(filters, 1, name="inp")
        self.inner = [Bottleneck(filters // 2, name=f"bottleneck{i}") for i in range(count)]
        self.out = conv_bn(filters, 1, name="out")

    def call(self, x):
        left, right = ops.split(self.inp(x), 2, axis=-1)
        parts = [left, right]
        for block in self.inner:
            parts.append(block(parts[-1]))
        return self.out(ops.concatenate(parts, axis=-1))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "count": self.count}


@register
class CSPNet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = conv_bn(4, 3, 2, name="stem")
        self.stages = [CSPBlock(8, 1, name="stage_0"), CSPBlock(8, 2, name="stage_1")]
        self.head = layers.Dense(3)

    def call(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(ops.mean(x, axis=[1, 2]))


@case(lambda n, h, w: floats(n, h, w, 3), (2, 8, 8), (3, 6, 10))
def csp():
    return CSPNet(name="csp")


@register
class FeaturePyramid(keras.Model):
    """Top-down: each level is resized to the size of the one below, whatever that is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = {f"c{i}": conv_bn(4 + i, 3, 2, name=f"c{i}") for i in (2, 3, 4)}
        self.lateral = {k: layers.Conv2D(4, 1, name=f"lateral_{k}") for k in self.body}
        self.smooth = {
            k: layers.Conv2D(4, 3, padding="same", name=f"smooth_{k}") for k in self.body
        }

    def call(self, images):
        levels, x = {}, images
        for name, block in self.body.items():
            levels[name] = x = block(x)
        outputs, above = {}, None
        for name in ("c4", "c3", "c2"):
            here = self.lateral[name](levels[name])
            if above is not None:
                size = ops.shape(here)[1:3]
                here = here + ops.image.resize(above, size, interpolation="nearest")
            above = here
            outputs["p" + name[1:]] = self.smooth[name](here)
        return outputs


@case(lambda n, h, w: floats(n, h, w, 3), (2, 16, 16), (3, 24, 20))
def fpn_with_dict_output():
    return FeaturePyramid(name="fpn")


@register
class SqueezeExcite(layers.Layer):
    def __init__(self, ratio=2, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, shape):
        self.squeeze = layers.Dense(shape[-1] // self.ratio, activation="relu", name="squeeze")
        self.excite = layers.Dense(shape[-1], activation="sigmoid", name="excite")
        self.squeeze.build((None, shape[-1]))
        self.excite.build((None, shape[-1] // self.ratio))
        super().build(shape)

    def call(self, x):
        gate = self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))
        return x * gate[:, None, None, :]

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio}


@register
class SENet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = layers.Conv2D(4, 3, padding="same", activation="relu")
        self.se1 = SqueezeExcite(name="se1")
        self.conv2 = layers.SeparableConv2D(6, 3, padding="same", activation="relu")
        self.se2 = SqueezeExcite(3, name="se2")
        self.flat = layers.GlobalMaxPooling2D()

    def call(self, x):
        x = self.se1(self.conv1(x))
        return self.flat(self.se2(self.conv2(x)))


@case(lambda n, h, w: floats(n, h, w, 3), (2, 6, 7), (1, 9, 5))
def squeeze_excite():
    return SENet(name="senet")


@register
class DenseLayer(layers.Layer):
    def __init__(self, growth, **kwargs):
        super().__init__(**kwargs)
        self.growth = growth
        self.bn = layers.BatchNormalization(epsilon=1e-5)
        self.conv = layers.Conv2D(growth, 3, padding="same", use_bias=False)

    def call(self, x):
        return ops.concatenate([x, self.conv(ops.relu(self.bn(x)))], axis=-1)

    def get_config(self):
        return {**super().get_config(), "growth": self.growth}


@register
class DenseNet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(4, 3, padding="same")
        for i in range(3):
            setattr(self, f"dense{i}", DenseLayer(2, name=f"dense{i}"))
        self.transition = layers.Conv2D(4, 1)
        self.pool = layers.AveragePooling2D(2)
        self.head = layers.Dense(3, activation="softmax")

    def call(self, x):
        x = self.stem(x)
        for i in range(3):
            x = getattr(self, f"dense{i}")(x)
        x = self.pool(self.transition(x))
        return self.head(ops.max(x, axis=(1, 2)))


@case(lambda n, h, w: floats(n, h, w, 3), (2, 8, 6), (3, 6, 10))
def densenet():
    return DenseNet(name="densenet")


@register
class ConvNeXtBlock(layers.Layer):
    """With a scale of its own for each channel, and whole samples dropped in training."""

    def __init__(self, dim, drop=0.3, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.drop_rate = dim, drop
        self.depthwise = layers.DepthwiseConv2D(5, padding="same", name="depthwise")
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.up = layers.Dense(2 * dim, activation="gelu", name="up")
        self.down = layers.Dense(dim, name="down")
        self.drop_path = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), seed=4)

    def build(self, shape):
        self.gamma = self.add_weight(shape=(self.dim,), initializer="ones", name="gamma")
        super().build(shape)

    def call(self, x):
        y = self.gamma * self.down(self.up(self.norm(self.depthwise(x))))
        return x + self.drop_path(y)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "drop": self.drop_rate}


@register
class ConvNeXt(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.patchify = layers.Conv2D(4, 2, 2)
        self.blocks = keras.Sequential([ConvNeXtBlock(4, name=f"block_{i}") for i in range(2)])
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(ops.mean(self.blocks(self.patchify(x)), axis=(1, 2)))


@case(lambda n, h, w: floats(n, h, w, 3), (2, 8, 6), (4, 6, 10))
def convnext():
    return ConvNeXt(name="convnext")


@register
class WindowNet(keras.Model):
    """Cuts an image of any size into windows and puts it together again, by sizes."""

    def __init__(self, window=2, dim=4, **kwargs):
        super().__init__(**kwargs)
        self.window, self.dim = window, dim
        self.embed = layers.Conv2D(dim, 1)
        self.attention = layers.MultiHeadAttention(2, 2, name="attention")
        self.merge = layers.Dense(dim, name="merge")

    def call(self, x):
        x = self.embed(x)
        batch, height, width, _ = ops.shape(x)
        w = self.window
        y = ops.reshape(x, (batch, height // w, w, width // w, w, self.dim))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, w * w, self.dim))
        y = self.attention(y, y)
        y = ops.reshape(y, (batch, height // w, width // w, w, w, self.dim))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (batch, height, width, self.dim))
        return self.merge(ops.roll(y, 1, axis=1) + x)


@case(lambda n, h, w: floats(n, h, w, 3), (2, 4, 6), (3, 8, 4))
def windows_of_unknown_size():
    return WindowNet(name="windows")
