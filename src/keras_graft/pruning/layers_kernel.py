"""Rules for layers with a kernel: Dense, EinsumDense, convolutions, embeddings."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from keras_graft.pruning.activations import activated
from keras_graft.pruning.call import Call
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.registry import layer_class, layers

_L = keras.layers


@layers(_L.Dense)
def dense(c: Call) -> None:
    kernel = c.layer.kernel
    out = c.axis(c.y, -1)
    c.same(c.axis(c.x, -1), c.weight(kernel, 0))
    c.same(out, c.weight(kernel, 1), c.weight(c.layer.bias, 0))
    c.counts("units", out)
    c.through(c.x, c.y, leave=(-1,))
    c.source = out
    activated(c)


@layers(_L.EinsumDense)
def einsum_dense(c: Call) -> None:
    layer = c.layer
    x, k, y = re.split(r",|->", layer.equation.replace(" ", ""))
    labels = einsum_labels([x, k, y], [len(v) for v in _shapes(c, layer.kernel)])
    places = [c.axis(c.x, i) if a else None for i, a in enumerate(labels[0])]
    made = [c.axis(c.y, i) for i in range(len(labels[2]))]
    given = layer.partial_output_shape
    given = [given] if isinstance(given, int) else list(given)
    weight = [c.weight(layer.kernel, i) for i in range(len(labels[1]))]
    for i, label in enumerate(labels[2]):
        if label in labels[0]:
            c.same(made[i], places[labels[0].index(label)])
        if label in labels[1]:
            c.same(made[i], weight[labels[1].index(label)])
            place = i - (len(labels[2]) - len(given))
            if place >= 0 and given[place] is not None:
                c.counts(("output_shape", place), made[i])
    for i, label in enumerate(labels[0]):
        if label in labels[1]:
            c.same(places[i], weight[labels[1].index(label)])
    if layer.bias is not None:
        named = [a for a in labels[2] if a in layer.bias_axes]
        _bias(c, layer.bias, named, labels[2], made)
    own = [i for i, a in enumerate(labels[2]) if a in labels[1] and a not in labels[0]]
    # The first of several: of (heads, size of a head), the heads.
    c.source = made[own[0]] if own else None
    activated(c)


def _bias(c: Call, bias: Any, named: list[str], out: list[str], made: list[Any]) -> None:
    """The bias has the axes from the first that is named on; 1 where one is not."""
    rank = len(bias.shape)
    for i in range(rank):
        place = len(out) - rank + i
        if out[place] in named:
            c.same(made[place], c.weight(bias, i))


def _shapes(c: Call, kernel: Any) -> list[Any]:
    return [c.x.spec.shape, tuple(kernel.shape), c.y.spec.shape]


def einsum_labels(parts: list[str], ranks: list[int]) -> list[list[str]]:
    """Return one label for each axis; those that `...` stands for are numbered from the right."""
    found = []
    for part, rank in zip(parts, ranks, strict=True):
        before, dots, after = part.partition("...")
        count = rank - len(before) - len(after) if dots else 0
        found.append([*before, *(f"...{count - i}" for i in range(count)), *after])
    return found


@layers(_L.Conv1D, _L.Conv2D, _L.Conv3D)
def convolution(c: Call) -> None:
    layer = c.layer
    into, out = c.channel(c.x), c.channel(c.y)
    c.same(out, c.weight(layer.kernel, -1), c.weight(layer.bias, 0))
    c.counts("filters", out)
    c.source = out
    activated(c)
    if layer.groups == 1:
        c.same(into, c.weight(layer.kernel, -2))
    else:
        in_groups(c, "groups", layer.groups, into, out)


def in_groups(c: Call, name: str, count: int, *axes: Axis | None) -> None:
    """Say that channels go by whole groups, which a number in the configuration counts."""
    number = c.number(name, count)
    c.numbers[number.holder[2]] = number  # type: ignore[index]
    for axis in axes:
        if axis is not None:
            c.link(axis, np.arange(axis.size), number, np.arange(axis.size) * count // axis.size)


@layers(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
def transposed(c: Call) -> None:
    layer = c.layer
    into, out = c.channel(c.x), c.channel(c.y)
    c.same(into, c.weight(layer.kernel, -1))
    c.same(out, c.weight(layer.kernel, -2), c.weight(layer.bias, 0))
    c.counts("filters", out)
    c.source = out
    activated(c)


@layers(_L.DepthwiseConv1D, _L.DepthwiseConv2D)
def depthwise(c: Call) -> None:
    layer, into, out = c.layer, c.channel(c.x), c.channel(c.y)
    if into is None or out is None:
        return
    c.same(into, c.weight(layer.kernel, -2))
    c.scaling.add(c.weight(layer.kernel, -2))
    c.link(out, np.arange(out.size), into, np.arange(out.size) // layer.depth_multiplier)
    c.same(out, c.weight(layer.bias, 0))
    c.source = out
    activated(c)


@layers(_L.SeparableConv1D, _L.SeparableConv2D)
def separable(c: Call) -> None:
    layer, into, out = c.layer, c.channel(c.x), c.channel(c.y)
    if into is None or out is None:
        return
    middle = c.weight(layer.pointwise_kernel, -2)
    assert middle is not None
    c.same(into, c.weight(layer.depthwise_kernel, -2))
    c.scaling.add(c.weight(layer.depthwise_kernel, -2))
    c.link(middle, np.arange(middle.size), into, np.arange(middle.size) // layer.depth_multiplier)
    c.same(out, c.weight(layer.pointwise_kernel, -1), c.weight(layer.bias, 0))
    c.counts("filters", out)
    c.source = out
    activated(c)


@layers(_L.Embedding)
def embedding(c: Call) -> None:
    out, table = c.axis(c.y, -1), c.layer.embeddings
    c.same(out, c.weight(table, 1))
    c.counts("output_dim", out)
    for i in range(len(c.x.spec.shape)):
        c.same(c.axis(c.x, i), c.axis(c.y, i))
    c.absorb(c.weight(table, 0))  # how many words there are concerns no other layer
    c.stop(c.weight(table, 0), "the words of an embedding are counted by what gives their numbers")
    c.source = out


@layers(layer_class("ReversibleEmbedding"))
def reversible_embedding(c: Call) -> None:
    layer = c.layer
    if not c.argument(1, "reverse", False):
        embedding(c)
        c.same(c.axis(c.y, -1), c.weight(getattr(layer, "reverse_embeddings", None), 0))
        return
    table = layer.embeddings
    into, out = c.axis(c.x, -1), c.axis(c.y, -1)
    c.same(into, c.weight(table, 1), c.weight(getattr(layer, "reverse_embeddings", None), 0))
    c.counts("output_dim", into)
    c.same(out, c.weight(table, 0), c.weight(getattr(layer, "reverse_embeddings", None), 1))
    c.stop(c.weight(table, 0), "the words of an embedding are counted by what gives their numbers")
    c.through(c.x, c.y, leave=(-1,))
    c.source = into
