"""Matrix products: Dense, EinsumDense, embeddings, and the ops for products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import layers

from keras_graft.costs.elementwise import activation, plus
from keras_graft.costs.formula import Unknown, divided, product
from keras_graft.costs.work import Call, Dims, Work, rule

_PRODUCT = "each value of the result is a sum of k products: m x n x k"


def low_rank(layer: Any) -> Work:
    """Return the work of the adapters of `layer.enable_lora`: Keras multiplies them at each call."""
    if not getattr(layer, "lora_enabled", False):
        return Work()
    a, b = layer.lora_kernel_a.shape, layer.lora_kernel_b.shape
    size = math.prod(a[:-1]) * b[-1]
    return Work(size * a[-1], 2 * size)


@rule(layers.Dense, source=f"{_PRODUCT}, for each position; the bias and the activation apart")
def dense(call: Call) -> Work:
    """Count a dense layer."""
    layer, size = call.operation, call.out.size
    bias = size if layer.use_bias else 0
    done = plus(bias, activation(layer.activation, size))
    return Work(size * call.first[-1], done) + low_rank(layer)


@rule(layers.EinsumDense, source="the product of the lengths of all letters in the equation")
def einsum_dense(call: Call) -> Work:
    """Count a dense layer with an equation."""
    layer, size = call.operation, call.out.size
    kernel = Dims(getattr(layer, "full_kernel_shape", None) or layer.kernel.shape)
    if None in kernel:
        kernel = Dims(layer.kernel.shape)
    done = plus(size if layer.bias is not None else 0, activation(layer.activation, size))
    return einsum(layer.equation, [call.first, kernel]) + Work(0, done) + low_rank(layer)


def einsum(equation: str, shapes: list[Dims]) -> Work:
    """Count an einsum of one or two tensors.

    Raises:
        Unknown: If there are more: the backend chooses the order of the products.
    """
    lengths, result = _letters(equation, shapes)
    if len(shapes) > 2:
        raise Unknown(f"the backend chooses the order of the products of {equation!r}")
    size = product(lengths.values())
    if len(shapes) == 1:
        summed = any(n not in result for n in lengths if n.isascii())
        return Work(0, size if summed else 0)
    return Work(size)


def _letters(equation: str, shapes: Sequence[Sequence[Any]]) -> tuple[dict[str, Any], str]:
    """Return the length of each letter of an equation, and the letters of its result.

    Axes in the place of `...` have Greek letters, aligned at the right.
    """
    left, _, result = equation.replace(" ", "").partition("->")
    lengths: dict[str, Any] = {}
    for letters, shape in zip(left.split(","), shapes, strict=True):
        letters = _written_out(letters, len(shape) - len(letters.replace("...", "")))
        for letter, length in zip(letters, shape, strict=True):
            if letter not in lengths or lengths[letter] == 1:
                lengths[letter] = length
    return lengths, _written_out(result, sum(not letter.isascii() for letter in lengths))


def _written_out(letters: str, wide: int) -> str:
    return letters.replace("...", "".join(chr(0x3B1 + i) for i in range(wide))[::-1])


def einsum_shape(equation: str, first: Dims, second: Sequence[int]) -> Dims:
    """Return the shape of what an einsum gives.

    >>> einsum_shape("...x,xy->...y", Dims((1, 2, 3)), (3, 4))
    (1, 2, 4)
    """
    lengths, result = _letters(equation, [first, second])
    return Dims(lengths[letter] for letter in result)


@rule("numpy.Einsum", source="the product of the lengths of all letters in the equation")
def _einsum(call: Call) -> Work:
    equation = getattr(call.operation, "subscripts", None) or call.args[0]
    shapes = [item for item in call.args if isinstance(item, Dims)] or list(call.inputs)
    return einsum(equation, shapes)


def _pair(call: Call) -> tuple[Dims, Dims]:
    first, second = call.tensor(0, "x1"), call.tensor(1, "x2")
    if first is None or second is None:
        raise Unknown("the shape of an argument is not known")
    return first, second


@rule("numpy.Matmul", "numpy.Dot", "numpy.Inner", "numpy.Vdot", source=_PRODUCT)
def matmul(call: Call) -> Work:
    """Count a product of two tensors."""
    first, second = _pair(call)
    if not first or not second:  # a number: the op multiplies each value
        return Work(0, call.out.size)
    if type(call.operation).__name__ == "Vdot":
        return Work(first.size)
    return Work(call.out.size * first[-1])


@rule("numpy.Tensordot", source=f"{_PRODUCT}, with k the lengths that are summed")
def _tensordot(call: Call) -> Work:
    first, _ = _pair(call)
    axes = call.operation.axes
    if isinstance(axes, int):
        summed = first[len(first) - axes :].size
    else:
        one = axes[0] if isinstance(axes[0], list | tuple) else [axes[0]]
        summed = product(first[axis] for axis in one)
    return Work(call.out.size * summed)


@rule("numpy.Outer", "numpy.Kron", source="one multiplication for each value of the result")
def _outer(call: Call) -> Work:
    return Work(0, call.out.size)


@rule("numpy.Cross", source="two multiplications and a subtraction for each value")
def _cross(call: Call) -> Work:
    return Work(0, 3 * call.out.size)


@rule(layers.Dot, source=f"{_PRODUCT}, with k the lengths of the axes")
def _dot(call: Call) -> Work:
    layer, first = call.operation, call.inputs[0]
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    normal = 3 * (first.size + call.inputs[1].size) if layer.normalize else 0
    return Work(divided(call.out.size * first[axis], 1), normal)


@rule(layers.Embedding, source="rows are looked up, and nothing is computed")
def embedding(call: Call) -> Work:
    """Count a table that is looked up."""
    layer = call.operation
    if not getattr(layer, "lora_enabled", False):
        return Work()
    rank = layer.lora_embeddings_a.shape[-1]  # rows of one factor, times the other factor
    return Work(call.out.size * rank, 2 * call.out.size)


@rule(
    layers.ReversibleEmbedding,
    source=f"looked up: nothing; with reverse=True {_PRODUCT}, with n the vocabulary",
)
def _reversible(call: Call) -> Work:
    layer = call.operation
    if not (call.kwargs.get("reverse") or call.args[1:2] == (True,)):
        return embedding(call)
    capped = 3 * call.out.size if layer.logit_soft_cap is not None else 0
    return Work(call.out.size * call.first[-1], capped)
