"""Merge parallel convolutions that are added into one: RepVGG's networks as they are deployed."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.recipes import _arguments

_L = keras.layers
KINDS = (_L.Conv1D, _L.Conv2D, _L.Conv3D)
_MOST = 4
"""The most branches that are looked for."""

_BRANCHES = ("conv", "conv bn", "bn", "")
"""What a branch may be: a convolution, perhaps with a norm; the input alone, perhaps with a norm."""


def merge_branches(model: Any) -> Any:
    """Merge parallel convolutions of one input, which are added, into one convolution.

    A branch is a convolution with "same" padding, or the input itself; each may have a
    `BatchNormalization` behind it. They are added by an `Add` layer, or by `+`. The smaller
    kernels are put at their place in the largest one, the input itself is a kernel of ones, and
    norms are folded into the kernels. Outputs are equal within float tolerance in inference mode;
    the batch statistics of training are gone. The new layer is named after the largest
    convolution and has weights of its own.

    The idea: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021
    (arXiv:2101.03697), section 3.3.

    Args:
        model: A Keras model or a `Graph`.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If there is nothing to merge; the nearest places are listed.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 4), name="x")
    >>> three = keras.layers.Conv2D(4, 3, padding="same", name="three")
    >>> one = keras.layers.Conv2D(4, 1, name="one")
    >>> model = keras.Model(x, keras.layers.Add()([three(x), one(x), x]))
    >>> [layer.name for layer in kg.recipes.merge_branches(model).layers]
    ['x', 'three']
    """
    graph = _pass(kg.read(model))
    with contextlib.suppress(kg.NothingSelectedError):
        while True:  # `a + b + c` is two sums: the second one is merged with what the first became
            graph = _pass(graph)
    return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _pass(graph: kg.Graph) -> kg.Graph:
    """Merge the branches of each sum once."""
    shared = _arguments.shared_layers(graph)
    patterns = list(_patterns())

    def why_not(match: kg.Match) -> str:
        return _why_not(match, patterns[match.number][1], shared)

    def merged(match: kg.Match, x: Any) -> Any:
        return _merged(match, patterns[match.number][1], x)

    wildcards: dict[str, Any] = {"add": keras.layers.Add}
    for i in range(_MOST):
        wildcards[f"conv{i}"] = lambda layer: type(layer) in KINDS
        wildcards[f"bn{i}"] = lambda layer: type(layer) is keras.layers.BatchNormalization
    return kg.rewrite(graph, [p for p, _ in patterns], merged, where=why_not, **wildcards)


Branch = tuple[str, int]
"""What a branch is, and its number."""


def _patterns() -> Iterator[tuple[Callable[..., Any], list[Branch]]]:
    """Yield each pattern with its branches: for an `Add`, and for a sum by `+`."""
    for count in range(_MOST, 1, -1):
        for kinds in itertools.combinations_with_replacement(_BRANCHES, count):
            if kinds[0].startswith("conv") and kinds.count("") <= 1:
                branches = [(kind, i) for i, kind in enumerate(kinds)]
                yield _pattern(branches, layer=True), branches
                if count == 2:
                    yield _pattern(branches, layer=False), branches


def _pattern(branches: Sequence[Branch], layer: bool) -> Callable[..., Any]:
    names = ["x", *(["add"] if layer else [])]
    for kind, i in branches:
        names += [f"{part}{i}" for part in kind.split()]

    def pattern(*given: Any) -> Any:
        named = dict(zip(names, given, strict=True))

        def value(kind: str, i: int) -> Any:
            y = named["x"]
            for part in kind.split():
                y = named[f"{part}{i}"](y)
            return y

        values = [value(*branch) for branch in branches]
        if layer:
            return named["add"](values)
        y = values[0]
        for other in values[1:]:
            y = y + other
        return y

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    pattern.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return pattern


def _why_not(match: kg.Match, branches: Sequence[Branch], shared: dict[int, str]) -> str:
    """Return why branches cannot be merged; nothing if they can be."""
    convs = [match[f"conv{i}"] for kind, i in branches if kind.startswith("conv")]
    first = max(convs, key=lambda conv: np.prod(conv.kernel_size))
    value = match.inputs["x"].spec
    assert value is not None
    for conv in convs:
        name = repr(conv.name)
        if id(conv) in shared:
            return f"{name} {shared[id(conv)]}"
        if conv.padding != "same":
            return f"{name} has padding={conv.padding!r}"
        if conv.activation is not keras.activations.linear:
            return f"{name} has an activation"
        if any(rate != 1 for rate in conv.dilation_rate):
            return f"{name} is dilated"
        if getattr(conv, "quantization_mode", None) or getattr(conv, "lora_enabled", False):
            return f"{name} is quantized or has LoRA weights"
        for key in ("strides", "groups", "data_format", "filters", "dtype_policy"):
            if getattr(conv, key) != getattr(first, key):
                return f"{name} has other {key} than {first.name!r}"
    sizes = _sizes(value, first)
    if any(stride > 1 and size is None for stride, size in zip(first.strides, sizes, strict=True)):
        return (
            f"{first.name!r} has strides, and where its kernel lies depends on a size that varies"
        )
    channels = value.shape[1 if first.data_format == "channels_first" else -1]
    for kind, i in branches:
        if kind in ("", "bn") and (channels != first.filters or any(s > 1 for s in first.strides)):
            return f"the input has {channels} channels, and {first.name!r} gives another shape"
        if not kind.endswith("bn"):
            continue
        norm = match[f"bn{i}"]
        if id(norm) in shared:
            return f"{norm.name!r} {shared[id(norm)]}"
        axis = norm.axis % len(value.shape)
        if axis != (1 if first.data_format == "channels_first" else len(value.shape) - 1):
            return f"{norm.name!r} normalizes axis {norm.axis}, not the channels"
    return ""


def _sizes(spec: Any, conv: Any) -> tuple[Any, ...]:
    return spec.shape[2:] if conv.data_format == "channels_first" else spec.shape[1:-1]


def _merged(match: kg.Match, branches: Sequence[Branch], x: Any) -> Any:
    """Make the one convolution, and call it."""
    convs = [match[f"conv{i}"] for kind, i in branches if kind.startswith("conv")]
    first = max(convs, key=lambda conv: np.prod(conv.kernel_size))
    size = [max(conv.kernel_size[axis] for conv in convs) for axis in range(first.rank)]
    config = {**first.get_config(), "kernel_size": size, "use_bias": True}
    new = type(first).from_config(config)
    y = new(x)
    kernel, bias = np.zeros(new.kernel.shape, "float64"), np.zeros(new.filters, "float64")
    sizes = _sizes(match.inputs["x"].spec, first)
    for kind, i in branches:
        conv = match[f"conv{i}"] if kind.startswith("conv") else None
        own = [1] * first.rank if conv is None else conv.kernel_size
        part = _identity(new) if conv is None else _array(conv.kernel, 1)
        shift = np.zeros(new.filters) if conv is None else _array(conv.bias, np.zeros(new.filters))
        if kind.endswith("bn"):
            norm = match[f"bn{i}"]
            deviation = np.sqrt(_array(norm.moving_variance, 1) + norm.epsilon)
            scale = _array(norm.gamma, 1) / deviation
            part = part * scale
            shift = (shift - _array(norm.moving_mean, 0)) * scale + _array(norm.beta, 0)
        starts = [
            _before(large, stride, n) - _before(small, stride, n)
            for large, small, stride, n in zip(size, own, first.strides, sizes, strict=True)
        ]
        at = tuple(slice(start, start + small) for start, small in zip(starts, own, strict=True))
        kernel[at] += part
        bias += shift
    new.set_weights([kernel, bias])
    return y


def _before(kernel: int, stride: int, size: int | None) -> int:
    """Return how many zeros "same" padding puts before an axis."""
    if size is None or stride == 1:
        return (kernel - 1) // 2
    return max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2


def _identity(conv: Any) -> Any:
    """Return the kernel of size 1 that hands each channel on."""
    inputs, outputs = conv.kernel.shape[-2:]
    kernel = np.zeros((*[1] * conv.rank, inputs, outputs))
    kernel[..., np.arange(outputs) % inputs, np.arange(outputs)] = 1
    return kernel


def _array(variable: Any, default: Any) -> Any:
    value = default if variable is None else keras.ops.convert_to_numpy(variable)
    return np.asarray(value, "float64")
