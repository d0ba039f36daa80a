"""PyTorch's layout of a weight and Keras's, and the way between them in both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How a tensor of PyTorch becomes a weight of Keras: taken apart, ordered, put together.

    Attributes:
        torch: The shape in PyTorch.
        split: The same, with flattened axes taken apart.
        axes: The order of the axes of `split` in Keras.
        keras: The shape in Keras.
        gates: The order of the first axis of `split`, if it differs: gates of a GRU.
    """

    torch: Shape
    split: Shape
    axes: tuple[int, ...]
    keras: Shape
    gates: tuple[int, ...] | None = None

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """Return PyTorch's values in Keras's layout.

        >>> linear((2, 3)).to_keras(np.array([[1, 2], [3, 4], [5, 6]])).tolist()
        [[1, 3, 5], [2, 4, 6]]
        """
        if not self.fits(array.shape):
            return array.transpose(self.axes)
        array = array.reshape(self.split)
        if self.gates:
            array = array[list(self.gates)]
        return array.transpose(self.axes).reshape(self.keras)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Return Keras's values in PyTorch's layout."""
        array = array.reshape([self.split[axis] for axis in self.axes])
        array = array.transpose(np.argsort(self.axes))
        if self.gates:
            array = array[np.argsort(self.gates)]
        return np.ascontiguousarray(array.reshape(self.torch))

    def fits(self, shape: Shape) -> bool:
        """Whether a tensor of this shape has the weight's values.

        At one end it may have more or fewer axes of size 1: a Linear for a convolution of size 1.
        """
        short, long = sorted((shape, self.torch), key=len)
        ones = (1,) * (len(long) - len(short))
        return long in ((*ones, *short), (*short, *ones))

    def shape(self, shape: Shape) -> Shape | None:
        """Return the shape in Keras of a tensor of another size; None if that is not clear."""
        if self.fits(shape):
            return self.keras
        if self.split != self.torch or len(shape) != len(self.torch) or self.gates:
            return None
        return tuple(shape[axis] for axis in self.axes)


def same(shape: Shape, torch: Shape | None = None) -> Layout:
    """The values as they are; perhaps with axes of size 1 left out."""
    torch = shape if torch is None else torch
    if torch != shape:
        return Layout(torch, torch, tuple(range(len(torch))), shape)
    return Layout(shape, shape, tuple(range(len(shape))), shape)


def linear(shape: Shape) -> Layout:
    """The kernel (inputs, outputs) of a Dense layer: PyTorch's is (outputs, inputs)."""
    return Layout(shape[::-1], shape[::-1], (1, 0), shape)


def flattened(shape: Shape, inside: Shape) -> Layout:
    """The kernel of a Dense layer behind a Flatten of an image (sizes..., channels).

    PyTorch flattens (channels, sizes...), so the rows of the kernel are in another order.
    """
    outputs, channels = shape[-1], inside[-1]
    split = (outputs, channels, *inside[:-1])
    axes = (*range(2, len(split)), 1, 0)
    return Layout((outputs, math.prod(inside)), split, axes, shape)


def conv(shape: Shape) -> Layout:
    """The kernel (sizes..., inputs, filters) of a convolution, grouped ones too.

    A transposed convolution has the last two axes exchanged on both sides.
    """
    rank = len(shape)
    axes = (*range(2, rank), 1, 0)
    torch = (shape[-1], shape[-2], *shape[:-2])
    return Layout(torch, torch, axes, shape)


def depthwise(shape: Shape) -> Layout:
    """The kernel (sizes..., channels, multiplier): PyTorch's is (channels * multiplier, 1, sizes...)."""
    *sizes, channels, multiplier = shape
    split = (channels, multiplier, *sizes)
    axes = (*range(2, len(split)), 0, 1)
    return Layout((channels * multiplier, 1, *sizes), split, axes, shape)


def gates(shape: Shape, order: tuple[int, ...] | None, count: int) -> Layout:
    """The kernel (inputs, gates * units) or bias (gates * units) of a recurrent cell.

    Args:
        shape: The shape in Keras.
        order: For each of Keras's gates the place in PyTorch; None if it is the same.
        count: The number of gates.
    """
    units = shape[-1] // count
    split = (count, units, *shape[:-1])
    axes = (2, 0, 1) if len(shape) == 2 else (0, 1)
    return Layout((shape[-1], *shape[:-1]), split, axes, shape, order)


def einsum(equation: str, shape: Shape) -> tuple[Layout, str] | None:
    """The kernel of an EinsumDense, as the matrix of a Linear, and the axes of its outputs.

    PyTorch's outputs are the new axes in the order of the result, its inputs the summed axes in the
    order of the input. None if the equation does more than a Linear.

    >>> layout, new = einsum("abc,cde->abde", (8, 2, 4))
    >>> layout.torch, new
    ((8, 8), 'de')
    """
    sides, _, result = equation.replace(" ", "").replace("...", "").partition("->")
    given, _, kernel = sides.partition(",")
    sizes = dict(zip(kernel, shape, strict=False))
    new = "".join(a for a in result if a in kernel and a not in given)
    summed = "".join(a for a in given if a in kernel and a not in result)
    order = new + summed
    if sorted(order) != sorted(kernel) or len(sizes) != len(shape):
        return None
    torch = (math.prod(sizes[a] for a in new), math.prod(sizes[a] for a in summed))
    split = tuple(sizes[a] for a in order)
    split = torch if len(new) == len(summed) == 1 else split
    return Layout(torch, split, tuple(order.index(a) for a in kernel), shape), new
