"""Whether a unit whose weights are zero is zero where a sum is taken over units.

A sigmoid makes one half of it, and a sum over the channels changes when it goes. Everything that is
not known to keep a zero counts as a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_graft.model.calls import filled
from keras_graft.pruning.activations import value_of
from keras_graft.pruning.call import Call, variable_behind_views
from keras_graft.pruning.closure import Axis
from keras_graft.pruning.ops_plain import ELEMENTWISE

Ask = Callable[[Axis], bool]
"""Whether the removed positions of an axis are zero."""

_L = keras.layers
KEEP = {
    "ActivityRegularization", "AlphaDropout", "Amax", "Amin", "Any", "All", "ArraySplit",
    "BroadcastTo", "Concatenate", "CountNonzero", "Dropout", "ExpandDims", "Flatten", "Flip",
    "GaussianDropout", "GaussianNoise", "GetItem", "Glu", "Identity", "KeepWeights", "Masking", "Max",
    "Mean", "Min", "Moveaxis", "Normalize", "Permute", "PReLU", "Prod", "RepeatVector", "Repeat",
    "Reshape", "Resizing", "Roll", "Slice", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D", "Split", "Squeeze", "Stack", "Std", "StochasticDepth", "Sum", "Swapaxes",
    "Take", "Tile", "Transpose", "UnitNormalization", "Unstack", "Var",
}  # fmt: skip
"""Layers and ops that give zero where all that they read is zero."""

KINDS = ("Pooling1D", "Pooling2D", "Pooling3D", "Cropping", "ZeroPadding", "UpSampling")
PRODUCTS = {"Dot", "Einsum", "Matmul", "Multiply"}
TABLES = {"Embedding", "LayerScale", "PositionEmbedding", "ReversibleEmbedding", "Weight"}
ATTENTION = {"MultiHeadAttention", "GroupedQueryAttention", "CachedMultiHeadAttention"}
NORMS = {"BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization"}


def is_zero(c: Call, axis: Axis, ask: Ask) -> bool:
    """Return whether the removed positions of an output of a call are zero.

    Args:
        c: The call.
        axis: An axis of an output.
        ask: Answers the same for axes of inputs.
    """
    layer = c.layer
    while isinstance(layer, _L.TimeDistributed | _L.SpectralNormalization):
        layer = layer.layer
    name = type(layer).__name__
    near = _near(c, axis)
    read = [a for a in near if not isinstance(a.holder, tuple)]
    weights = {a.holder[1] for a in near if isinstance(a.holder, tuple) and a.holder[0] == "weight"}
    if isinstance(layer, keras.Layer):
        if name in TABLES or name in ATTENTION:
            return bool(weights)
        if name in NORMS:
            scaled = getattr(layer, "gamma", getattr(layer, "scale", None))
            return bool(weights) and (hasattr(scaled, "shape") or _all(ask, read))
        if name in ("Attention", "AdditiveAttention"):
            return axis.at == len(c.y.spec.shape) - 1 and _all(ask, read)
        cells = _cells(layer)
        if cells:
            return _recurrent(c, axis, near, cells, ask)
        if hasattr(layer, "kernel") or hasattr(layer, "pointwise_kernel"):
            return _computed(c, layer, axis, read, weights, ask)
        if name in ("Add", "Subtract", "Average", "Maximum", "Minimum", "Multiply"):
            whole = len(read) == len(c.inputs)
            return any(map(ask, read)) if name == "Multiply" else whole and _all(ask, read)
        if name in ("Activation", "ReLU", "LeakyReLU", "ELU", "Rescaling"):
            function = getattr(layer, "activation", None) or layer.call
            return _all(ask, read) and keeps(function)
        kept = name in KEEP or name.endswith(KINDS[:3]) or name.startswith(KINDS[3:])
    elif name in PRODUCTS and name != "Multiply" or getattr(layer, "sign", "") == "matmul":
        return any(map(ask, read))
    elif name == "Pad":
        kept = not np.any(c.argument(1, "constant_values") or 0)
    else:
        if name in ELEMENTWISE or name == "Operator":
            return _elementwise(c, read, ask)
        kept = name in KEEP
    if name == "Dot":
        return any(map(ask, read))
    return kept and _all(ask, read)


def _near(c: Call, axis: Axis) -> list[Axis]:
    """Return the axes that an axis is linked with in a call, without those of its outputs."""
    made = {v.key for v in c.outputs}
    pairs = [(k.one, k.other) for k in c.links] + [(k.other, k.one) for k in c.links]
    return list(dict.fromkeys(b for a, b in pairs if a == axis and b.holder not in made))


def _all(ask: Ask, axes: list[Axis]) -> bool:
    return bool(axes) and all([ask(a) for a in axes])  # a list: all are asked for at once


def _computed(c: Call, layer: Any, axis: Axis, read: Any, weights: Any, ask: Ask) -> bool:
    """A kernel, a bias and an activation."""
    bias = getattr(layer, "bias", None)
    if bias is not None and id(variable_behind_views(bias)) not in weights:
        return False
    if not keeps(getattr(layer, "activation", None)):
        return False
    others = weights - ({id(variable_behind_views(bias))} if bias is not None else set())
    return bool(others) or axis == c.source or _all(ask, read)


def _cells(layer: Any) -> list[Any]:
    """Return the cells of a recurrent layer; none for another layer."""
    if isinstance(layer, _L.Bidirectional):
        return [*_cells(layer.forward_layer), *_cells(layer.backward_layer)]
    if isinstance(layer, _L.StackedRNNCells):
        return [cell for one in layer.cells for cell in _cells(one)]
    if isinstance(layer, _L.RNN):
        return _cells(layer.cell)
    return [layer] if hasattr(layer, "recurrent_kernel") else []


def _recurrent(c: Call, axis: Axis, near: list[Axis], cells: list[Any], ask: Ask) -> bool:
    """A state that begins with zero and to which nothing is added stays so."""
    units = [a for a in near if isinstance(a.holder, tuple)]
    if not units or not all(keeps(getattr(cell, "activation", None)) for cell in cells):
        return False
    given = {v.key for v in c.inputs[1:]}
    states = [a for u in units for a in _near(c, u) if a.holder in given]
    return all([ask(a) for a in states])


def keeps(function: Any) -> bool:
    """Return whether an activation makes zero of zero."""
    if function is None:
        return True
    found = value_of(function, np.zeros((2, 3), "float32"))
    return found is not None and not found.any()


_NUMBERS = {"f": [-3.0, -0.7, 0.3, 1.0, 2.5], "i": [-3, -1, 1, 2, 5], "b": [0, 1, 1, 0, 1]}


def _elementwise(c: Call, read: list[Axis], ask: Ask) -> bool:
    """Try an op: with zeros where its inputs are zero, and any numbers for the others."""
    zero = {a.holder for a, there in zip(read, [ask(a) for a in read], strict=True) if there}
    if not zero:
        return False
    given = []
    for place, value in enumerate(c.inputs):
        dtype = str(value.spec and value.spec.dtype)
        kind = "b" if dtype == "bool" else "i" if "int" in dtype else "f"
        array = np.roll(np.array(_NUMBERS[kind]), place)
        given.append((array * (value.key not in zero)).astype("float32" if kind == "f" else dtype))
    equal = type(c.layer).__name__ == "Equal" or getattr(c.layer, "sign", "") == "eq"
    if equal and len(zero) < len({v.key for v in c.inputs}):
        return False  # any number may be zero too

    def called(*tensors: Any) -> Any:
        args, kwargs = filled(c.node.template, tensors)
        return c.layer(*args, **kwargs)

    found = value_of(called, *given)
    return found is not None and not found.any()


def known_zero(axis: Axis, compute: Callable[[Axis, Ask], bool], known: dict[Axis, bool]) -> bool:
    """Answer for an axis after all that it depends on: a chain may be long."""
    waiting = [axis]
    while waiting:
        missing: list[Axis] = []

        def ask(other: Axis) -> bool:
            if other not in known:
                missing.append(other)  # noqa: B023
            return known.get(other, False)

        answer = compute(waiting[-1], ask)
        if missing:
            waiting += missing
        else:
            known[waiting.pop()] = answer
    return known[axis]
