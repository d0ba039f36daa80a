"""Rules for ops of Keras: elementwise, reductions, products, and what moves positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_graft.graph.node import Value
from keras_graft.pruning.call import Call, shapes_of
from keras_graft.pruning.layers_kernel import einsum_labels
from keras_graft.pruning.layers_plain import broadcast
from keras_graft.pruning.registry import ops

ELEMENTWISE = (
    "Absolute", "Add", "Arctan", "Arctan2", "BitwiseAnd", "Cast", "Ceil", "Celu", "Clip",
    "ConvertToTensor", "Copy", "Cos", "Cosh", "Divide", "DivideNoNan", "Elu", "Equal", "Erf", "Exp",
    "Exp2", "Expm1", "Floor", "FloorDivide", "Gelu", "Greater", "GreaterEqual", "HardShrink",
    "HardSigmoid", "HardSilu", "HardTanh", "Isfinite", "Isinf", "Isnan", "LeakyRelu", "Less",
    "LessEqual", "Log", "Log10", "Log1p", "Log2", "LogSigmoid", "Logaddexp", "LogicalAnd",
    "LogicalNot", "LogicalOr", "LogicalXor", "Maximum", "Minimum", "Mod", "Multiply", "NanToNum",
    "Negative", "NotEqual", "OnesLike", "Power", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt",
    "SaturateCast", "Selu", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "SoftShrink", "Softplus",
    "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient",
    "Subtract", "Tan", "Tanh", "TanhShrink", "Threshold", "TrueDivide", "Where", "ZerosLike",
)  # fmt: skip


@ops(*ELEMENTWISE)
def elementwise(c: Call) -> None:
    if only_plain_constants(c, c.y):
        broadcast(c, c.inputs, c.y)


def only_plain_constants(c: Call, out: Any) -> bool:
    """Whether no recorded argument is an array with a number for each position."""
    held = shapes_of(list(vars(c.layer).values()))
    return all(int(np.prod(shape)) == 1 for shape in (*c.constant_shapes(), *held))


@ops("Operator")
def operator(c: Call) -> None:
    if c.layer.sign == "matmul":
        matmul(c)
    else:
        elementwise(c)


@ops("Softmax", "LogSoftmax", "Sparsemax", "Normalize", "Cumsum")
def along(c: Call) -> None:
    c.through(c.x, c.y)
    name = type(c.layer).__name__
    axis = getattr(c.layer, "axis", -1)
    for index in axis if isinstance(axis, list | tuple) else [axis]:
        if index is None or name == "Cumsum":
            c.links.clear()
            c.settled.clear()
            return
        if name == "Normalize":
            c.sums(c.axis(c.x, index), what="norm")
        else:
            c.note(c.axis(c.y, index), f"{name.lower()} over the channels changes")


_COUNTED = ("Mean", "Std", "Var", "Max", "Amax", "Min", "Amin", "Logsumexp", "Prod", "Any", "All")


@ops("Sum", "CountNonzero", "Argmax", "Argmin", *_COUNTED)
def reduction(c: Call) -> None:
    name, rank = type(c.layer).__name__, len(c.x.spec.shape)
    given = c.layer.axis
    axes = range(rank) if given is None else given if isinstance(given, list | tuple) else [given]
    gone = {a % rank for a in axes}
    keep = bool(getattr(c.layer, "keepdims", False))
    place = 0
    for i in range(rank):
        if i in gone:
            if name == "Sum" or name == "CountNonzero":
                c.absorb(c.axis(c.x, i))
                c.sums(c.axis(c.x, i), what="sum" if name == "Sum" else "count")
            elif name in _COUNTED:
                c.absorb(c.axis(c.x, i), f"{name.lower()} over the channels changes")
            place += keep
        else:
            c.same(c.axis(c.x, i), c.axis(c.y, place))
            place += 1


@ops("Matmul")
def matmul(c: Call) -> None:
    if len(c.inputs) != 2:
        return
    one, other = c.inputs
    if min(len(c.shape(v)) for v in (one, other)) < 2:
        return
    c.same(c.axis(one, -1), c.axis(other, -2))
    c.sums(c.axis(one, -1), c.axis(other, -2))
    c.same(c.axis(one, -2), c.axis(c.y, -2))
    c.same(c.axis(other, -1), c.axis(c.y, -1))
    for part in (one, other):
        for i in range(-3, -len(c.shape(part)) - 1, -1):
            c.same(c.axis(part, i), c.axis(c.y, i))


@ops("Einsum")
def einsum(c: Call) -> None:
    into, _, out = c.layer.subscripts.replace(" ", "").partition("->")
    parts = [*into.split(","), out]
    values = [*c.inputs, c.y]
    if not out or len(parts) != len(values):
        return
    seen: dict[str, Any] = {}
    labels = einsum_labels(parts, [len(v.spec.shape) for v in values])
    for value, names in zip(values, labels, strict=True):
        for i, name in enumerate(names):
            axis = c.axis(value, i)
            if name in seen:
                c.same(seen[name], axis)
            elif axis is not None:
                seen[name] = axis
                c.absorb(axis)
    for name in seen.keys() - set(labels[-1]):
        places = [(v, n.index(name)) for v, n in zip(c.inputs, labels, strict=False) if name in n]
        c.sums(*(c.axis(value, i) for value, i in places))


@ops("DotProductAttention")
def dot_product_attention(c: Call) -> None:
    args, kwargs = c.arguments()
    query, key, value = [*args, *(kwargs.get(n) for n in ("query", "key", "value")[len(args) :])][
        :3
    ]
    c.same(c.axis(query, 2), c.axis(c.y, 2))
    for given in args[3:] + [kwargs.get(n) for n in ("bias", "mask")]:
        if isinstance(given, Value) and len(given.spec.shape) == 4:  # type: ignore[union-attr]
            c.same(c.axis(query, 2), c.axis(given, 1))
    for i, part in ((3, key), (2, key), (2, value)):
        c.same(c.axis(query, i), c.axis(part, i))
    c.same(c.axis(value, 3), c.axis(c.y, 3))
    c.note(c.axis(query, 3), "the scale of the scores follows the size of a head")
