"""Change the number of input channels: rules for the weights that read them first.

The named rules are defined by what the new model computes. Let the old input have `C` channels
and the new one `N`:

- `"mean"`: the new model gives for `x` what the old one gave for an input with `C` equal channels,
  each of them the mean of `x` over the channels of `x`.
- `"repeat"`: with fewer channels than before, it gives what the old one gave for the new channels
  repeated in turn until there are `C`. With more, it gives for the old channels repeated in turn
  what the old one gave for the old channels.
- `"pad"`: with more channels, the new ones have no effect. With fewer, it gives what the old one
  gave with zeros in the missing last channels.

With one channel, `"mean"` and `"repeat"` both sum the kernel over its input channels: a grey image
gives what it gave when repeated in three channels. Summing a kernel for one channel and repeating
it for more is known from `adapt_input_conv` in timm; the scales here keep the sums of the kernel
exactly.

A normalization in front has one statistic for each channel, and cannot do all that: it takes the
mean of the statistics that are combined in one channel, and is neutral in a new channel. The
definitions hold for the kernel behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.errors import EditError, warn
from keras_graft.model.recreate import again, assign
from keras_graft.printable import quoted

ChannelRule = str | Callable[[Any, int], Any]
RULES = ("mean", "repeat", "pad")

_layers = keras.layers
_CONV = (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_NEUTRAL = {"variance": 1.0, "moving_variance": 1.0, "gamma": 1.0, "scale": 1.0}


def channel_axis(layer: Any, rank: int) -> int | None:
    """Return the axis of a layer's input whose size a rule can change; None if there is none."""
    if isinstance(layer, (*_CONV, *_TRANSPOSED, _layers.Dense)):
        if getattr(layer, "groups", 1) != 1 or {w.name for w in layer.weights} - {"kernel", "bias"}:
            return None  # grouped, quantized, or with LoRA
        return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
    if isinstance(layer, _layers.BatchNormalization):
        return layer.axis % rank
    if isinstance(layer, _layers.Normalization):
        return layer.axis[0] % rank if len(layer.axis) == 1 else None
    if isinstance(layer, _layers.Rescaling):
        return rank - 1 if np.ndim(layer.scale) == 1 or np.ndim(layer.offset) == 1 else None
    return None


def with_channels(layer: Any, shape: tuple[int | None, ...], rule: ChannelRule, verb: str) -> Any:
    """Return a new layer that does what `layer` does, for an input of this shape.

    Raises:
        EditError: If the rule returns a kernel of another shape, or is a function and the layer has
            statistics, not a kernel; if the layer is tied or cannot be made from its configuration.
    """
    axis = channel_axis(layer, len(shape))
    assert axis is not None
    for tie in _ties.ties_of(layer):
        raise EditError(
            f"{verb}: {layer.name!r} receives the new channels, but {tie.target_name!r} is tied to "
            f"{tie.source_name!r}. Untie it first: {advice.call('untie', ('target', str(tie.target_name)))}."
        )
    count = shape[axis]
    assert count is not None
    if not isinstance(layer, (*_CONV, *_TRANSPOSED, _layers.Dense)) and callable(rule):
        raise EditError(
            f"{verb}: {type(layer).__name__} {layer.name!r} has numbers for each channel but no "
            "kernel, so a function cannot say how to change them. Use one of "
            f"{', '.join(map(repr, RULES))}, or replace the layer first: "
            f"kg.replace(model, {quoted(layer.name)}, ...)."
        )
    changes = {
        name: _statistics(np.asarray(value), count, rule, _NEUTRAL.get(name, 0.0)).tolist()
        for name, value in _keras.get_config(layer).items()
        if name in ("scale", "offset", "mean", "variance") and np.ndim(value) == 1
    } if isinstance(layer, (_layers.Rescaling, _layers.Normalization)) else {}  # fmt: skip
    _tell_if_uneven(layer, count, rule, verb)
    new = again(layer, layer.name, **changes)
    if not new.built:
        new.build(shape)
    for source, target in zip(layer.weights, new.weights, strict=True):
        array = np.array(keras.ops.convert_to_numpy(source))
        assign(target, adapted(layer, source.name, array, count, rule, verb))
    if isinstance(new, _layers.Normalization) and new.weights:
        new.finalize_state()
    return new


def _tell_if_uneven(layer: Any, count: int, rule: ChannelRule, verb: str) -> None:
    """Warn where one channel gets the mean of numbers that differ: then outputs differ too."""
    if isinstance(layer, (*_CONV, *_TRANSPOSED, _layers.Dense)):
        return
    config = _keras.get_config(layer)
    given = [config.get(name) for name in ("scale", "offset", "mean", "variance")]
    vectors = [np.asarray(v, "float64") for v in given if v is not None and np.ndim(v) == 1]
    held = [np.asarray(keras.ops.convert_to_numpy(w), "float64") for w in layer.weights]
    vectors += [array for array in held if array.ndim == 1]
    if rule == "mean":
        parts = vectors
    elif rule == "repeat":
        parts = [v[i::count] for v in vectors for i in range(count) if count < len(v)]
    else:
        return
    if any(not np.allclose(part, part[0], rtol=1e-6, atol=0) for part in parts if len(part)):
        warn(
            f"{verb}: {type(layer).__name__} {layer.name!r} treats each channel differently, and one new "
            "channel gets the mean of their numbers. So the outputs are close to those for a grey image "
            "in three channels, not equal. For equal ones let the old model repeat the channel: "
            "kg.join(keras.Model(x, keras.ops.repeat(x, 3, axis=-1)), model), where x is the new keras.Input."
        )


def adapted(
    layer: Any, name: str, array: np.ndarray, count: int, rule: Any, verb: str
) -> np.ndarray:
    """Return what the weight `name` of a layer of this kind becomes for `count` channels.

    Raises:
        EditError: If the rule is a function and returns a kernel of another shape.
    """
    if name == "kernel":
        place = -1 if isinstance(layer, _TRANSPOSED) else -2
        kernel = np.moveaxis(array, place, -2)
        new = np.asarray(rule(kernel, count)) if callable(rule) else _kernel(kernel, count, rule)
        expected = (*kernel.shape[:-2], count, kernel.shape[-1])
        if new.shape != expected:
            raise EditError(
                f"{verb}: the function given as channels= returned a kernel of shape {new.shape} for "
                f"{type(layer).__name__} {layer.name!r}, but {expected} is needed: it receives the "
                f"kernel, here {kernel.shape}, and the new number of channels, here {count}."
            )
        return np.moveaxis(new, -2, place).astype(array.dtype)
    if array.ndim != 1 or isinstance(layer, (*_CONV, *_TRANSPOSED, _layers.Dense)):
        return array
    return _statistics(array, count, rule, _NEUTRAL.get(name, 0.0)).astype(array.dtype)


def _kernel(kernel: np.ndarray, count: int, rule: str) -> np.ndarray:
    """Return a kernel (..., old channels, filters) for `count` channels."""
    old = kernel.shape[-2]
    exact = kernel.astype("float64")
    if rule == "mean":
        return np.repeat(exact.sum(-2, keepdims=True) / count, count, axis=-2)
    if rule == "pad":
        extra = [(0, 0)] * (kernel.ndim - 2) + [(0, max(0, count - old)), (0, 0)]
        return np.pad(exact[..., :count, :], extra)
    if count < old:
        return np.stack([exact[..., i::count, :].sum(-2) for i in range(count)], axis=-2)
    taken = np.arange(count) % old
    return exact[..., taken, :] / np.bincount(taken)[taken][:, None]


def _statistics(values: np.ndarray, count: int, rule: Any, neutral: float) -> np.ndarray:
    """Return one number for each of `count` channels from one for each old channel."""
    old = len(values)
    exact = values.astype("float64")
    if rule == "mean":
        return np.full(count, exact.mean())
    if rule == "pad":
        return np.concatenate([exact[:count], np.full(max(0, count - old), neutral)])
    if count < old:
        return np.array([exact[i::count].mean() for i in range(count)])
    return exact[np.arange(count) % old]
