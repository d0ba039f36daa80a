"""Merge parallel convolutions that are added into one: RepVGG's networks as they are deployed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_graft as kg
from keras_graft.recipes import _arguments

KINDS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_MOST = 4  # branches
_BRANCHES = ("conv", "conv bn", "bn", "")  # a branch without a convolution is the input itself


def merge_branches(model: Any) -> Any:
    """Merge parallel convolutions of one input, which are added, into one convolution.

    A branch is a convolution that pads its input ("same"), or the input itself; each may have a
    `BatchNormalization` behind it. They are added by an `Add` layer, or by `+`. The smaller
    kernels are put at their place in the largest one, the input itself is a kernel of ones, and
    norms are folded into the kernels. Outputs are equal within float tolerance in inference mode;
    the batch statistics of training are gone, and regularizers see the new kernel. The new layer is
    named after the largest convolution and has weights of its own.

    The idea: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021
    (arXiv:2101.03697), section 3.3.

    Args:
        model: A Keras model or a `Graph`.

    Returns:
        What `model` is.

    Raises:
        NothingSelectedError: If there is nothing to merge; near misses are listed.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8, 8, 4), name="x")
    >>> three = keras.layers.Conv2D(4, 3, padding="same", name="three")
    >>> one = keras.layers.Conv2D(4, 1, name="one")
    >>> model = keras.Model(x, keras.layers.Add()([three(x), one(x), x]))
    >>> [layer.name for layer in kg.recipes.merge_branches(model).layers]
    ['x', 'three']
    """
    graph = _pass(kg.read(model))
    while True:  # `a + b + c` is two sums: the second one is merged with what the first became
        try:
            graph = _pass(graph)
        except kg.NothingSelectedError:
            return graph if isinstance(model, kg.Graph) else kg.build(graph)


def _pass(graph: kg.Graph) -> kg.Graph:
    shared, patterns = _arguments.shared_layers(graph), list(_patterns())
    kinds = {"conv": KINDS, "bn": keras.layers.BatchNormalization}
    numbered = {f"{name}{i}": kind for name, kind in kinds.items() for i in range(_MOST)}
    return kg.rewrite(
        graph,
        [pattern for pattern, _ in patterns],
        lambda match, x: _merged(match, patterns[match.number][1], x),
        where=lambda match: _why_not(match, patterns[match.number][1], shared),
        add=keras.layers.Add,
        **numbered,
    )


Branch = tuple[str, int]  # what it is, and its number


def _patterns() -> Iterator[tuple[Callable[..., Any], list[Branch]]]:
    for count in range(_MOST, 1, -1):
        for kinds in itertools.combinations_with_replacement(_BRANCHES, count):
            if kinds[0].startswith("conv") and kinds.count("") <= 1:
                branches = [(kind, i) for i, kind in enumerate(kinds)]
                yield _arguments.added_branches(branches, layer=True), branches
                if count == 2:
                    yield _arguments.added_branches(branches, layer=False), branches


def _why_not(match: kg.Match, branches: Sequence[Branch], shared: dict[int, str]) -> str:
    convs = [match[f"conv{i}"] for kind, i in branches if kind.startswith("conv")]
    norms = [match[f"bn{i}"] for kind, i in branches if kind.endswith("bn")]
    first = max(convs, key=lambda conv: np.prod(conv.kernel_size))
    value, gives = match.inputs["x"].spec, match.outputs[0].spec
    assert value is not None and gives is not None
    add = [node.operation for node in match.nodes if isinstance(node.operation, keras.layers.Add)]
    used = [layer for layer in (*convs, *norms) if id(layer) in shared]
    if used:
        return f"{used[0].name!r} {shared[id(used[0])]}"
    kinds = (*KINDS, keras.layers.BatchNormalization, keras.layers.Add)
    if why := _arguments.odd([*convs, *norms, *add], kinds):
        return why
    for node in match.nodes:
        spec = node.values[0].spec
        if spec is None or spec.dtype != gives.dtype:
            return f"{node.path!r} gives {spec}, and {match.path!r} {gives}"
    for conv in convs:
        wrong = {
            f"has padding={conv.padding!r}": conv.padding != "same" and max(conv.kernel_size) > 1,
            "has an activation": conv.activation is not keras.activations.linear,
            "is dilated": max(conv.dilation_rate) > 1,
            f"is frozen or trained, other than {first.name!r}": (
                _arguments.trains(conv, "kernel") != _arguments.trains(first, "kernel")
            ),
            **{
                f"has other {key} than {first.name!r}": getattr(conv, key) != getattr(first, key)
                for key in ("strides", "groups", "data_format", "filters", "dtype_policy")
            },
        }
        if any(wrong.values()):
            return f"{conv.name!r} {next(text for text, found in wrong.items() if found)}"
    sizes = _sizes(value, first)
    moved = [n for stride, n in zip(first.strides, sizes, strict=True) if stride > 1]
    if None in moved:
        return (
            f"{first.name!r} has strides, and where its kernel lies depends on a size that varies"
        )
    axis = 1 if first.data_format == "channels_first" else len(value.shape) - 1
    alone = any(not kind.startswith("conv") for kind, _ in branches)
    if alone and (value.shape[axis] != first.filters or moved):
        return f"the input has {value.shape[axis]} channels, and {first.name!r} gives another shape"
    wrong = [norm for norm in norms if norm.axis % len(value.shape) != axis]
    return f"{wrong[0].name!r} normalizes axis {wrong[0].axis}, not the channels" if wrong else ""


def _sizes(spec: Any, conv: Any) -> tuple[Any, ...]:
    return spec.shape[2:] if conv.data_format == "channels_first" else spec.shape[1:-1]


def _merged(match: kg.Match, branches: Sequence[Branch], x: Any) -> Any:
    convs = [match[f"conv{i}"] for kind, i in branches if kind.startswith("conv")]
    first = max(convs, key=lambda conv: np.prod(conv.kernel_size))
    size = [max(sizes) for sizes in zip(*(conv.kernel_size for conv in convs), strict=True)]
    norms = [match[f"bn{i}"] for kind, i in branches if kind.endswith("bn")]
    shifts = [(conv, "bias") for conv in convs] + [(norm, "beta") for norm in norms]
    shifts = [(layer, name) for layer, name in shifts if getattr(layer, name) is not None]
    own = {"kernel_size": size, "use_bias": bool(norms or shifts), "padding": "same"}
    config = {**first.get_config(), **own}
    if size != list(first.kernel_size):
        config["kernel_initializer"] = "glorot_uniform"  # another one may hold an array
    new = type(first).from_config(config)
    y, array = new(x), _arguments.array
    inputs = new.kernel.shape[-2]
    kernel, bias = np.zeros(new.kernel.shape), np.zeros(new.filters)
    sizes = _sizes(match.inputs["x"].spec, first)
    for kind, i in branches:
        conv = match[f"conv{i}"] if kind.startswith("conv") else None
        own = [1] * first.rank if conv is None else conv.kernel_size
        shift = np.zeros(new.filters)
        if conv is None:  # each channel is handed on
            part = np.zeros((*own, inputs, new.filters))
            part[..., np.arange(new.filters) % inputs, np.arange(new.filters)] = 1
        else:
            part, shift = array(conv.kernel, 1), array(conv.bias, shift)
        if kind.endswith("bn"):
            norm = match[f"bn{i}"]
            scale = array(norm.gamma, 1) / np.sqrt(array(norm.moving_variance, 1) + norm.epsilon)
            part = part * scale
            shift = (shift - array(norm.moving_mean, 0)) * scale + array(norm.beta, 0)
        starts = [
            _before(large, stride, n) - _before(small, stride, n)
            for large, small, stride, n in zip(size, own, first.strides, sizes, strict=True)
        ]
        kernel[tuple(slice(a, a + n) for a, n in zip(starts, own, strict=True))] += part
        bias += shift
    new.set_weights([kernel, bias] if new.use_bias else [kernel])
    shifted = any(_arguments.trains(*one) for one in shifts)
    _arguments.set_flags(new, [_arguments.trains(first, "kernel"), shifted])
    return y


def _before(kernel: int, stride: int, size: int | None) -> int:
    total = kernel - 1 if size is None else (-(-size // stride) - 1) * stride + kernel - size
    return max(total, 0) // 2  # zeros that "same" padding puts there
