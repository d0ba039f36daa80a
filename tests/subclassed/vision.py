"""Vision models as users write them."""

from __future__ import annotations

from typing import NamedTuple

import keras
from case import case, floats, register
from keras import layers, ops


@register
class BasicBlock(layers.Layer):
    def __init__(self, filters, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.stride = filters, stride
        self.conv1 = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)
        self.bn1 = layers.BatchNormalization()
        self.conv2 = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.bn2 = layers.BatchNormalization()
        self.project = None

    def build(self, shape):
        if self.stride != 1 or shape[-1] != self.filters:
            self.project = layers.Conv2D(self.filters, self.stride, self.stride, name="project")
            self.project.build(shape)
        super().build(shape)

    def call(self, x, training=None):
        y = ops.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        if self.project is not None:
            x = self.project(x)
        return ops.relu(x + y)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}


@register
class ResNet(keras.Model):
    def __init__(self, widths=(4, 8), depth=2, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.depth, self.classes = list(widths), depth, classes
        self.stem = layers.Conv2D(widths[0], 3, padding="same")
        self.blocks = []
        for stage, width in enumerate(widths):
            for i in range(depth):
                stride = 2 if stage and i == 0 else 1
                self.blocks.append(BasicBlock(width, stride, name=f"stage{stage}_block{i}"))
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(classes)

    def call(self, images, training=None):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pool(x))

    def get_config(self):
        own = {"widths": self.widths, "depth": self.depth, "classes": self.classes}
        return {**super().get_config(), **own}


@case(lambda n, h, w: floats(n, h, w, 3), (2, 8, 8), (3, 12, 10))
def resnet():
    return ResNet(name="resnet")


@register
class DoubleConv(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.steps = keras.Sequential(
            [
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
            ]
        )

    def call(self, x):
        return self.steps(x)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class UNet(keras.Model):
    def __init__(self, base=4, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.base, self.depth = base, depth
        widths = [base * 2**i for i in range(depth)]
        self.down = [DoubleConv(w, name=f"down_{i}") for i, w in enumerate(widths)]
        self.pools = [layers.MaxPooling2D() for _ in widths]
        self.bottom = DoubleConv(base * 2**depth, name="bottom")
        self.ups = [layers.Conv2DTranspose(w, 2, strides=2, padding="same") for w in widths]
        self.up = [DoubleConv(w, name=f"up_{i}") for i, w in enumerate(widths)]
        self.out = layers.Conv2D(1, 1, activation="sigmoid", name="out")

    def call(self, x):
        skips = []
        for block, pool in zip(self.down, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x)
        x = self.bottom(x)
        for i in reversed(range(self.depth)):
            x = ops.concatenate([skips.pop(), self.ups[i](x)], axis=-1)
            x = self.up[i](x)
        return self.out(x)

    def get_config(self):
        return {**super().get_config(), "base": self.base, "depth": self.depth}


@case(lambda n, h, w: floats(n, h, w, 2), (2, 8, 8), (3, 16, 12))
def unet():
    return UNet(name="unet")


@register
class Attend(layers.Layer):
    """Attention and an MLP, each behind its norm."""

    def __init__(self, dim, heads, drop=0.1, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads, self.drop = dim, heads, drop
        self.norm1 = layers.LayerNormalization(epsilon=1e-6, name="norm1")
        self.attention = layers.MultiHeadAttention(heads, dim // heads, name="attention")
        self.norm2 = layers.LayerNormalization(epsilon=1e-6, name="norm2")
        self.up = layers.Dense(2 * dim, activation="gelu", name="up")
        self.down = layers.Dense(dim, name="down")
        self.dropout = layers.Dropout(drop, seed=5)

    def call(self, x, training=False):
        y = self.norm1(x)
        x = x + self.attention(y, y)
        y = self.down(self.up(self.norm2(x)))
        return x + self.dropout(y, training=training)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads, "drop": self.drop}


@register
class ViT(keras.Model):
    def __init__(self, patch=4, dim=8, depth=2, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.patch, self.dim, self.depth, self.classes = patch, dim, depth, classes
        self.embed = layers.Conv2D(dim, patch, strides=patch)
        self.encoder = [Attend(dim, 2, name=f"layer_{i}") for i in range(depth)]
        self.norm = layers.LayerNormalization(epsilon=1e-6)
        self.head = layers.Dense(classes)

    def build(self, shape):
        patches = (shape[1] // self.patch) * (shape[2] // self.patch)
        self.token = self.add_weight(shape=(1, 1, self.dim), name="class_token")
        self.positions = self.add_weight(
            shape=(1, patches + 1, self.dim), initializer="random_normal", name="positions"
        )
        super().build(shape)

    def call(self, images, training=False):
        x = self.embed(images)
        batch = ops.shape(x)[0]
        x = ops.reshape(x, (batch, -1, self.dim))
        token = ops.broadcast_to(self.token, (batch, 1, self.dim))
        x = ops.concatenate([token, x], axis=1) + self.positions
        for layer in self.encoder:
            x = layer(x, training=training)
        return self.head(self.norm(x)[:, 0])

    def get_config(self):
        own = {"patch": self.patch, "dim": self.dim, "depth": self.depth, "classes": self.classes}
        return {**super().get_config(), **own}


@case(lambda n: floats(n, 8, 12, 3), (2,), (5,))
def vit():
    return ViT(name="vit")


@register
class InvertedResidual(layers.Layer):
    def __init__(self, filters, expand=2, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.expand, self.stride = filters, expand, stride

    def build(self, shape):
        self.wide = layers.Conv2D(shape[-1] * self.expand, 1, use_bias=False)
        self.depth = layers.DepthwiseConv2D(3, self.stride, padding="same", use_bias=False)
        self.narrow = layers.Conv2D(self.filters, 1, use_bias=False)
        self.norms = [layers.BatchNormalization(momentum=0.9) for _ in range(3)]
        self.residual = self.stride == 1 and shape[-1] == self.filters
        y = shape
        for conv, norm in zip([self.wide, self.depth, self.narrow], self.norms, strict=True):
            conv.build(y)
            y = conv.compute_output_shape(y)
            norm.build(y)
        super().build(shape)

    def call(self, x):
        y = ops.relu6(self.norms[0](self.wide(x)))
        y = ops.relu6(self.norms[1](self.depth(y)))
        y = self.norms[2](self.narrow(y))
        return x + y if self.residual else y

    def get_config(self):
        own = {"filters": self.filters, "expand": self.expand, "stride": self.stride}
        return {**super().get_config(), **own}


@register
class MobileNet(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = layers.Rescaling(1 / 127.5, offset=-1)
        self.stem = layers.Conv2D(4, 3, 2, padding="same")
        self.body = keras.Sequential(
            [
                InvertedResidual(4, name="same"),
                InvertedResidual(6, 3, 2, name="narrower"),
                InvertedResidual(6, name="last"),
            ],
            name="body",
        )
        self.pool = layers.GlobalAveragePooling2D(keepdims=True)
        self.head = layers.Conv2D(3, 1)

    def call(self, images):
        x = self.body(ops.hard_swish(self.stem(self.scale(images))))
        return ops.squeeze(self.head(self.pool(x)), axis=(1, 2))


@case(lambda n, h, w: 255 * abs(floats(n, h, w, 3)), (2, 16, 8), (3, 12, 14))
def mobilenet():
    return MobileNet(name="mobilenet")


class Detections(NamedTuple):
    boxes: object
    scores: object


@register
class Detector(keras.Model):
    """One head for two levels, called once for each."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.levels = [layers.Conv2D(4, 3, 2, padding="same", activation="relu") for _ in range(2)]
        self.boxes = keras.Sequential(
            [layers.Conv2D(4, 3, padding="same"), layers.Reshape((-1, 4))]
        )
        self.scores = keras.Sequential([layers.Conv2D(2, 1), layers.Reshape((-1, 2))])

    def call(self, x):
        boxes, scores = [], []
        for level in self.levels:
            x = level(x)
            boxes.append(self.boxes(x))
            scores.append(self.scores(x))
        boxes, scores = ops.concatenate(boxes, 1), ops.concatenate(scores, 1)
        return Detections(ops.exp(ops.clip(boxes, -3, 3)), ops.sigmoid(scores))


@case(lambda n: floats(n, 8, 8, 3), (2,), (3,))
def detector_with_namedtuple_output():
    return Detector(name="detector")
