"""The other layers of Keras: activations, norms, pooling, merging, reshaping, preprocessing."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from keras_graft.costs.convolution import lengths
from keras_graft.costs.elementwise import activation, nothing
from keras_graft.costs.formula import Formula, Lost, product
from keras_graft.costs.work import Call, Work, not_known, rule


@rule(layers.Activation, source="the steps of the function for each value, as XLA counts them")
def _activation(call: Call) -> Work:
    return Work(0, activation(call.operation.activation, call.out.size))


@rule(
    layers.ELU, layers.LeakyReLU, layers.PReLU, layers.ReLU, layers.Softmax,
    source="the steps of the function for each value, as XLA counts them",
)  # fmt: skip
def _steps(call: Call) -> Work:
    layer = call.operation
    per = {"ELU": 6, "LeakyReLU": 3, "PReLU": 5, "Softmax": 5}.get(_kind(layer), 1)
    if isinstance(layer, layers.ReLU):
        per = 1 + (layer.max_value is not None) + 2 * bool(layer.negative_slope)
    return Work(0, per * call.out.size)


def _kind(layer: Any) -> str:
    known = ("ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax")
    return next(c.__name__ for c in type(layer).__mro__ if c.__name__ in known)


@rule(
    layers.BatchNormalization,
    source="one multiplication and one addition for each value; in inference the rest is constant",
)
def _batch_norm(call: Call) -> Work:
    return Work(0, 2 * call.out.size)


@rule(
    layers.LayerNormalization, layers.GroupNormalization,
    source="mean, variance, scale and offset: the steps for each value, as XLA counts them",
)  # fmt: skip
def _norm(call: Call) -> Work:
    return Work(0, 8 * call.out.size)


@rule(layers.RMSNormalization, layers.UnitNormalization, source="square, sum and scale")
def _rms(call: Call) -> Work:
    return Work(0, 3 * call.out.size)


@rule(layers.Normalization, layers.Rescaling, source="two steps for each value")
def _two(call: Call) -> Work:
    return Work(0, 2 * call.out.size)


@rule(
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.AveragePooling1D,
    layers.AveragePooling2D, layers.AveragePooling3D,
    source="one step for each value of a window; the windows of the padding too",
)  # fmt: skip
def _pool(call: Call) -> Work:
    size = call.operation.pool_size
    axes = len(call.first) - 2
    each = math.prod(size) if isinstance(size, list | tuple) else size**axes
    return Work(0, each * call.out.size)


@rule("nn.MaxPool", "nn.AveragePool", source="one step for each value of a window")
def _pool_op(call: Call) -> Work:
    return _pool(call)


@rule(
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
    source="one step for each value that is read",
)  # fmt: skip
def _global(call: Call) -> Work:
    return Work(0, call.first.size)


# Keras 3.12 and 3.13 do not have them.
_ADAPTIVE = [
    getattr(layers, name)
    for name in (f"Adaptive{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3))
    if hasattr(layers, name)
]


@rule(
    *_ADAPTIVE, "nn.AdaptiveAveragePool", "nn.AdaptiveMaxPool",
    source="one step for each value of a window: from floor(i n / m) to ceil((i + 1) n / m)",
)  # fmt: skip
def _adaptive(call: Call) -> Work:
    first = getattr(call.operation, "data_format", None) == "channels_first"
    before, after = lengths(call.first, first), lengths(call.out, first)
    if any(isinstance(n, Formula | Lost) for n in (*before, *after)):
        return Work(0, call.first.size)
    each = product(
        sum(-(-(i + 1) * n // m) - i * n // m for i in range(m))
        for n, m in zip(before, after, strict=True)
    )
    return Work(0, each * call.out[0] * call.out[1 if first else -1])


@rule(
    layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract,
    source="one step for each value and each further input; an average divides",
)  # fmt: skip
def _merge(call: Call) -> Work:
    further = len(call.inputs) - 1 + isinstance(call.operation, layers.Average)
    return Work(0, further * call.out.size)


@rule(
    layers.Concatenate, layers.Flatten, layers.Permute, layers.RepeatVector, layers.Reshape,
    layers.UpSampling1D, layers.UpSampling3D, layers.ZeroPadding1D, layers.ZeroPadding2D,
    layers.ZeroPadding3D, layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.Identity,
    layers.InputLayer, layers.CenterCrop, layers.MaxNumBoundingBoxes,
    source="moves values and computes none",
)  # fmt: skip
def _move(call: Call) -> Work:
    return nothing(call)


@rule(layers.UpSampling2D, source="nearest: values are repeated; else each backend in its own way")
def _upsampling(call: Call) -> Work:
    return Work() if call.operation.interpolation == "nearest" else Work(operations=None)


@rule(layers.Masking, source="a comparison and a product for each value, a reduction for the mask")
def _masking(call: Call) -> Work:
    return Work(0, 3 * call.out.size)


@rule(
    layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.ActivityRegularization, source="nothing in inference",
)  # fmt: skip
def _in_training(call: Call) -> Work:
    return nothing(call)


_AUGMENT = tuple(
    getattr(layers, name)
    for name in (
        "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
        "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
        "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
        "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
        "RandomTranslation", "RandomZoom",
    )
    if hasattr(layers, name)
)  # fmt: skip
rule(*_AUGMENT, source="augments in training, and does nothing in inference")(nothing)

not_known(
    *(
        getattr(layers, name)
        for name in (
            "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization",
            "RandomCrop", "Resizing", "Solarization", "MelSpectrogram", "STFTSpectrogram",
        )
        if hasattr(layers, name)
    ),
    why="each backend computes it in its own way",
)  # fmt: skip
not_known(
    *(
        getattr(layers, name)
        for name in (
            "Hashing", "HashedCrossing", "IntegerLookup", "StringLookup", "TextVectorization",
            "CategoryEncoding", "Discretization", "Pipeline",
        )
        if hasattr(layers, name)
    ),
    why="it prepares data, and how many steps that takes depends on the data",
)  # fmt: skip
not_known(
    layers.TFSMLayer, layers.JaxLayer, layers.FlaxLayer, layers.TorchModuleWrapper,
    why="it calls code of another library",
)  # fmt: skip

OPENED = (layers.Lambda, layers.Wrapper, layers.Layer, keras.Model)
"""Layers whose code is opened to be counted."""
