"""The slots of each kind of Keras layer: which module of PyTorch computes the same, in which layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import layers

from keras_graft.weights.address import Group, Weight, named_by_keras
from keras_graft.weights.torch_format import layouts
from keras_graft.weights.torch_format.layouts import Layout
from keras_graft.weights.torch_format.slot import WEIGHT_AND_BIAS, Part, Slot

Flat = Mapping[int, tuple[int, ...]]
"""For Dense layers that read a flattened image, by their `id`, the shape of the image."""

_CONV = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_CELLS = {layers.LSTMCell: 4, layers.GRUCell: 3, layers.SimpleRNNCell: 1}
_STATISTICS = frozenset((*WEIGHT_AND_BIAS, "running_mean", "running_var"))
_RECURRENT = frozenset(("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def slots_of(group: Group, flat: Flat) -> list[Slot]:
    """Return the slots of a model, in the order of its layers.

    Args:
        group: The groups of the model.
        flat: For Dense layers that read a flattened image, by their `id`, the shape of the image.
    """
    return list(_slots(group, (), flat, None, set(), False))


@dataclass(frozen=True)
class _Recurrent:
    """The recurrent layer around a cell: its module in PyTorch, and the address of its slot."""

    base: str
    direction: str = ""
    number: int = 0
    address: str | None = None

    @property
    def module(self) -> str:
        return f"{self.base.replace('/', '.')}.l{self.number}{self.direction}".lstrip(".")


def _slots(
    group: Group,
    path: tuple[str, ...],
    flat: Flat,
    around: _Recurrent | None,
    seen: set[int],
    automatic: bool,
) -> Iterator[Slot]:
    own = {w.name: w for w in group.own if id(w) not in seen}
    seen.update(id(w) for w in own.values())
    if own:
        for slot in _of_layer(group.layer, own, flat, around):
            slot.automatic = automatic
            yield slot
    for number, inner in enumerate(group.inside):
        its = _around(group, inner, "/".join(path), number, around)
        named = automatic or named_by_keras(inner)
        yield from _slots(inner, (*path, inner.name), flat, its, seen, named)


def _around(
    outer: Group, inner: Group, path: str, number: int, around: _Recurrent | None
) -> _Recurrent | None:
    """Return what the weights of a recurrent cell must know of the layers around it."""
    if isinstance(outer.layer, layers.Bidirectional):
        backward = inner.layer is outer.layer.backward_layer
        return _Recurrent(path, "_reverse" if backward else "")
    if isinstance(outer.layer, layers.RNN):
        around = around or _Recurrent(path)
        stacked = isinstance(inner.layer, layers.StackedRNNCells)
        return around if stacked else replace(around, address=path)
    if isinstance(outer.layer, layers.StackedRNNCells) and around is not None:
        return replace(around, number=number)
    return None


def _of_layer(
    layer: Any, own: dict[str, Weight], flat: Flat, around: _Recurrent | None
) -> Iterator[Slot]:
    address = next(iter(own.values())).address
    number = address.rpartition("#")
    twin = f"#{number[2]}" if number[1] and number[2].isdigit() else ""
    address = address.rpartition("/")[0] + twin
    module, kind = address.replace("/", "."), type(layer).__name__
    rest = dict(own)

    def part(name: str, tensors: Any, layout: Callable[[Any], Layout], **more: Any) -> list[Part]:
        weight = rest.pop(name, None)
        tensors = (tensors,) if isinstance(tensors, str) else tensors
        return [Part(weight, tensors, layout(weight.shape), **more)] if weight is not None else []

    def affine(kernel: Callable[[Any], Layout], name: str = "kernel") -> tuple[Part, ...]:
        return (*part(name, "weight", kernel), *part("bias", "bias", layouts.same))

    def slot(parts: Any, allowed: Any = WEIGHT_AND_BIAS, why: str | None = None) -> Iterator[Slot]:
        if parts:
            yield Slot(address, module, kind, tuple(parts), allowed, why)

    if isinstance(layer, layers.Dense):
        inside = flat.get(id(layer))
        yield from slot(
            affine(layouts.linear if inside is None else lambda s: layouts.flattened(s, inside))
        )
    elif isinstance(layer, layers.EinsumDense):
        yield from slot(*_einsum(layer, part))
    elif isinstance(layer, _SEPARABLE):
        for name, of in (("depthwise", layouts.depthwise), ("pointwise", layouts.conv)):
            parts = part(f"{name}_kernel", "weight", of)
            parts += part("bias", "bias", layouts.same) if name == "pointwise" else []
            if parts:
                yield Slot(f"{address}/{name}_kernel", f"{module}.{name}", kind, tuple(parts))
    elif isinstance(layer, _DEPTHWISE):
        yield from slot(affine(layouts.depthwise))
    elif isinstance(layer, (*_CONV, *_TRANSPOSED)):
        yield from slot(affine(layouts.conv))
    elif isinstance(layer, layers.Embedding):
        yield from slot(part("embeddings", "weight", layouts.same), frozenset(["weight"]))
        reverse = part("reverse_embeddings", "weight", layouts.linear)
        if reverse:
            yield Slot(reverse[0].weight.address, f"{module}.reverse", kind, tuple(reverse))
    elif isinstance(layer, layers.PReLU):
        yield from slot(part("alpha", "weight", _alpha), frozenset(["weight"]))
    elif isinstance(layer, tuple(_CELLS)):
        parts, why = _cell(layer, part)
        its = around or _Recurrent(address)
        yield Slot(
            its.address or address, its.module if around else module, kind, parts, _RECURRENT, why
        )
    else:
        yield from slot(*_norm(layer, own, part))
    for name in list(rest):  # what belongs to no known kind of module is one parameter each
        (found,) = part(name, "weight", layouts.same)
        its = found.weight.address
        why = f"PyTorch has no {kind}" if isinstance(layer, keras.layers.RNN) else None
        module = its.replace("/", ".")
        yield Slot(its, module, kind, (found,), frozenset(["weight"]), why, parameter=True)


def _alpha(shape: tuple[int, ...]) -> Layout:
    sizes = [n for n in shape if n != 1]
    return layouts.same(shape, (math.prod(shape),)) if len(sizes) < 2 else layouts.same(shape)


def _einsum(layer: Any, part: Any) -> tuple[list[Part], Any, str | None]:
    found = []
    parts = part("kernel", "weight", lambda s: found.append(layouts.einsum(layer.equation, s)) or (
        found[0][0] if found[0] else layouts.same(s)))  # fmt: skip
    why = None if found and found[0] else f"its equation {layer.equation!r} is not a Linear's"
    if layer.bias_axes and why is None:
        result = layer.equation.partition("->")[2]
        axes = "".join(a for a in result if a in layer.bias_axes)
        if axes == found[0][1]:
            parts += part("bias", "bias", lambda s: layouts.same(s, (math.prod(s),)))
        else:
            why = f"its bias_axes {layer.bias_axes!r} are not the outputs of a Linear"
            parts += part("bias", "bias", layouts.same)
    return parts, WEIGHT_AND_BIAS, why


def _cell(layer: Any, part: Any) -> tuple[tuple[Part, ...], str | None]:
    count = next(n for cls, n in _CELLS.items() if isinstance(layer, cls))
    order = (
        (1, 0, 2) if count == 3 else None
    )  # Keras begins with the update gate, PyTorch with reset
    why, after = None, getattr(layer, "reset_after", False)
    if count == 3 and not after:
        why = "reset_after=False computes something else than PyTorch's GRU"

    def of(shape: tuple[int, ...]) -> Layout:
        return layouts.gates(shape, order, count)

    bias = ("bias_ih", "bias_hh")
    return (
        *part("kernel", "weight_ih", of),
        *part("recurrent_kernel", "weight_hh", of),
        *(
            part("bias", bias, lambda s: of(s[1:]), stacked=True)
            if after
            else part("bias", bias, of)
        ),
    ), why


def _norm(layer: Any, own: dict[str, Weight], part: Any) -> tuple[list[Part], frozenset[str]]:
    parts = []
    if isinstance(layer, layers.BatchNormalization) or {"gamma", "scale"} & set(own):
        for name in ("gamma", "scale"):
            parts += part(name, "weight", layouts.same)
        for name in ("beta", "bias"):
            parts += part(name, "bias", layouts.same)
    statistics = [*part("moving_mean", "running_mean", layouts.same),
                  *part("moving_variance", "running_var", layouts.same)]  # fmt: skip
    return [*parts, *statistics], _STATISTICS if statistics else WEIGHT_AND_BIAS
