"""Convolutions of every kind, as layers and as ops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import layers

from keras_graft.costs.elementwise import activation, plus
from keras_graft.costs.formula import Formula, Lost, product
from keras_graft.costs.products import low_rank
from keras_graft.costs.work import Call, Dims, Work, rule

_EACH = "for each position and filter of the result: the size of the kernel x the channels it reads"


def lengths(shape: Dims, first: bool) -> Dims:
    """Return the lengths of a map, without batch and channels."""
    return shape[2:] if first else shape[1:-1]


def channels(shape: Dims, first: bool) -> Any:
    """Return the number of channels of a map."""
    return shape[1] if first else shape[-1]


def used(before: Sequence[Any], after: Sequence[Any], layer: Any) -> int | None:
    """Return how often a weight of a kernel meets a value, and not a zero of the padding.

    Args:
        before: The lengths of the map that is read.
        after: The lengths of the map that is given.
        layer: Says kernel size, strides, dilation and padding.

    Returns:
        The number for one channel and one filter; None if a length is unknown.
    """
    if any(isinstance(n, Formula | Lost) for n in (*before, *after)):
        return None
    total = 1
    axes = len(before)
    kernel = _each(layer.kernel_size, axes)
    strides, dilation = _each(layer.strides, axes), _each(layer.dilation_rate, axes)
    for n, m, k, s, d in zip(before, after, kernel, strides, dilation, strict=True):
        left = 0
        if layer.padding == "same":
            left = max((m - 1) * s + (k - 1) * d + 1 - n, 0) // 2
        elif layer.padding == "causal":
            left = (k - 1) * d
        total *= sum(0 <= o * s + t * d - left < n for o in range(m) for t in range(k))
    return total


def _each(given: Any, axes: int) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, list | tuple) else (given,) * axes


class _Layer:
    """What `used` reads, for an op, whose kernel is a tensor."""

    def __init__(self, op: Any, kernel: Sequence[Any]) -> None:
        self.kernel_size, self.strides, self.padding = tuple(kernel), op.strides, op.padding
        self.dilation_rate = op.dilation_rate


def _conv(before: Dims, out: Dims, first: bool, how: Any, per_filter: Any) -> Work:
    """Count a convolution, in which each filter reads `per_filter` channels."""
    kernel = math.prod(_each(how.kernel_size, len(lengths(before, first))))
    whole = out.size * kernel * per_filter
    met = used(lengths(before, first), lengths(out, first), how)
    if met is None:
        return Work(whole)
    return Work(whole, 0, whole - met * out[0] * channels(out, first) * per_filter)


def _after(layer: Any, size: Any) -> Work:
    return Work(0, plus(size if layer.use_bias else 0, activation(layer.activation, size)))


def _first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D, source=f"{_EACH} (all / groups)")
def conv(call: Call) -> Work:
    """Count a convolution."""
    layer, first = call.operation, _first(call.operation)
    reads = channels(call.first, first) // layer.groups
    done = _after(layer, call.out.size)
    return _conv(call.first, call.out, first, layer, reads) + done + low_rank(layer)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D, source=f"{_EACH} (one)")
def _depthwise(call: Call) -> Work:
    layer = call.operation
    found = _conv(call.first, call.out, _first(layer), layer, 1)
    return found + _after(layer, call.out.size)


def _separable_work(before: Dims, out: Dims, first: bool, how: Any, multiplier: int) -> Work:
    wide = channels(before, first) * multiplier
    places = lengths(out, first)
    middle = Dims((out[0], wide, *places) if first else (out[0], *places, wide))
    return _conv(before, middle, first, how, 1) + Work(out.size * wide)


@rule(
    layers.SeparableConv1D, layers.SeparableConv2D,
    source="a depthwise convolution, then one with a kernel of size 1",
)  # fmt: skip
def _separable(call: Call) -> Work:
    layer = call.operation
    found = _separable_work(call.first, call.out, _first(layer), layer, layer.depth_multiplier)
    return found + _after(layer, call.out.size)


def _transposed(before: Dims, out: Dims, first: bool, how: Any, filters: Any) -> Work:
    """Count a transposed convolution: each value that is read is multiplied with the kernel."""
    kernel = _each(how.kernel_size, len(lengths(before, first)))
    whole = before.size * math.prod(kernel) * filters
    places = lengths(before, first), lengths(out, first)
    if any(isinstance(n, Formula | Lost) for n in (*places[0], *places[1])):
        return Work(whole)
    strides, dilation = _each(how.strides, len(kernel)), _each(how.dilation_rate, len(kernel))
    kept = 1
    for n, m, k, s, d in zip(*places, kernel, strides, dilation, strict=True):
        cropped = max((n - 1) * s + (k - 1) * d + 1 - m, 0) // 2
        kept *= sum(0 <= i * s + t * d - cropped < m for i in range(n) for t in range(k))
    return Work(whole, 0, whole - before[0] * channels(before, first) * filters * kept)


_TRANSPOSED = "for each value that is read: the size of the kernel x the filters"


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, source=_TRANSPOSED)
def _conv_transpose(call: Call) -> Work:
    layer = call.operation
    found = _transposed(call.first, call.out, _first(layer), layer, layer.filters)
    return found + _after(layer, call.out.size)


def _kernel(call: Call, index: int, name: str) -> Dims:
    found = call.tensor(index, name)
    assert found is not None
    return found


@rule("nn.Conv", source=f"{_EACH}; the kernel says how many")
def _conv_op(call: Call) -> Work:
    op, kernel = call.operation, _kernel(call, 1, "kernel")
    return _conv(call.first, call.out, _first(op), _Layer(op, kernel[:-2]), kernel[-2])


@rule("nn.DepthwiseConv", source=f"{_EACH} (one)")
def _depthwise_op(call: Call) -> Work:
    op, kernel = call.operation, _kernel(call, 1, "kernel")
    return _conv(call.first, call.out, _first(op), _Layer(op, kernel[:-2]), 1)


@rule("nn.SeparableConv", source="a depthwise convolution, then one with a kernel of size 1")
def _separable_op(call: Call) -> Work:
    op, kernel = call.operation, _kernel(call, 1, "depthwise_kernel")
    how = _Layer(op, kernel[:-2])
    return _separable_work(call.first, call.out, _first(op), how, kernel[-1])


@rule("nn.ConvTranspose", source=_TRANSPOSED)
def _transpose_op(call: Call) -> Work:
    op, kernel = call.operation, _kernel(call, 1, "kernel")
    return _transposed(call.first, call.out, _first(op), _Layer(op, kernel[:-2]), kernel[-2])


def window(call: Call, size: Sequence[int]) -> Any:
    """Return how many values the windows of a pooling read, without padding."""
    return call.out.size * product(size)
