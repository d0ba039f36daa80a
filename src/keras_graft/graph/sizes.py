"""`Size`: a size that is not known, as a plain int for all code that computes with it.

Code in a `call` reads sizes of tensors and computes with them: `ops.shape(x)[1] // 2`. Symbolic
tensors have None there, which fails. A `Size` is an int with a value in each of two worlds, and
knows how it was computed. Code that treats both worlds alike is code for any size.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from keras_graft.graph.node import Slot


class Doubt(Exception):
    """Code does something that no graph of calls says; the message is the reason."""


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul,
    "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A size that is read from a tensor. `tensor` is a KerasTensor, or a `Slot` in a finished call."""

    tensor: Any
    axis: int


@dataclass(frozen=True)
class Computed:
    """A size that is computed from two others; either may be a plain int."""

    sign: str
    left: Any
    right: Any


Formula = Axis | Computed | int


class Size(int):
    """A size that is not known, or is computed from one.

    Attributes:
        other: Its value in the second world. The int itself is the value in the first.
        formula: How it was computed.
    """

    other: int
    formula: Formula
    watched = False
    """Whether code of a user runs, whose comparisons must agree in both worlds."""

    def __new__(cls, value: int, other: int, formula: Formula) -> Size:
        """Return a size with these two values."""
        size = super().__new__(cls, value)
        size.other, size.formula = other, formula
        return size

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __neg__(self) -> Any:
        return self * -1

    def __float__(self) -> float:
        return self._as_float(1.0, operator.mul, int(self), 1.0)

    def __truediv__(self, given: Any) -> Any:
        return self._as_float(given, operator.truediv, int(self), given)

    def __rtruediv__(self, given: Any) -> Any:
        return self._as_float(given, operator.truediv, given, int(self))

    def __rpow__(self, given: Any, modulo: Any = None) -> Any:
        return self._as_float(given, operator.pow, given, int(self))

    def __pow__(self, given: Any, modulo: Any = None) -> Any:
        if type(given) is int and given > 0 and modulo is None:
            return math.prod([self] * given)
        return self._as_float(given, operator.pow, int(self), given)

    def __divmod__(self, given: Any) -> Any:
        return self // given, self % given

    def __rdivmod__(self, given: Any) -> Any:
        return given // self, given % self

    def _as_float(self, given: Any, compute: Callable[[Any, Any], Any], *values: Any) -> Any:
        if not isinstance(given, int | float):
            return NotImplemented
        if Size.watched and not _by_library(3):
            raise Doubt(
                "its code makes a Python float of a size that is not known; keras.ops.cast(n, x.dtype) "
                "makes a tensor, which can be divided"
            )
        return compute(*values)

    def __hash__(self) -> int:
        if Size.watched and not _by_library():
            raise Doubt("its code looks up a size that is not known in a dict or a set")
        return int.__hash__(self)


def _arithmetic(sign: str, swapped: bool) -> Callable[[Size, Any], Any]:
    compute = _ARITHMETIC[sign]

    def method(self: Size, given: Any) -> Any:
        if isinstance(given, bool) or not hasattr(type(given), "__index__"):
            return NotImplemented
        given = given if isinstance(given, Size) else operator.index(given)
        left, right = (given, self) if swapped else (self, given)
        # Also where both worlds agree by chance: 16 // 64 and 24 // 64 are both 0.
        first = compute(int(left), int(right))
        second = compute(other(left), other(right))
        return Size(first, second, Computed(sign, formula_of(left), formula_of(right)))

    return method


def _comparison(name: str) -> Callable[[Size, Any], Any]:
    compare = getattr(operator, name)

    def method(self: Size, given: Any) -> Any:
        if not isinstance(given, int | float):
            return NotImplemented
        first = compare(int(self), given if isinstance(given, float) else int(given))
        if not Size.watched:
            return first
        if isinstance(given, Size):
            if (int(self), self.other) == (int(given), given.other):
                return first  # groups of sizes that are always equal have equal values
        elif given <= 0 and first == compare(self.other, int(given)):
            # No size is below one, so the answer is that for all sizes. Keras's own code makes such
            # comparisons in `reshape`.
            return first
        if first == compare(self.other, other(given)) and _asked_by_keras():
            return first  # such as the warning of `softmax` for an axis of size 1
        raise Doubt(f"its code compares a size that is not known ({int(self)} or {other(self)})")

    return method


def _asked_by_keras() -> bool:
    """Whether code of Keras itself compares."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("keras.")


def _by_library(depth: int = 2) -> bool:
    """Whether code of a library uses a size, and not the code of a layer."""
    name = str(sys._getframe(depth).f_globals.get("__name__", ""))
    return name.startswith(_LIBRARIES)


_LIBRARIES = (
    "keras.", "keras_graft.", "jax", "torch", "tensorflow", "numpy", "optree", "ml_dtypes",
)  # fmt: skip

for _sign, _name in zip(_ARITHMETIC, ("add", "sub", "mul", "floordiv", "mod"), strict=True):
    setattr(Size, f"__{_name}__", _arithmetic(_sign, False))
    setattr(Size, f"__r{_name}__", _arithmetic(_sign, True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Size, f"__{_name}__", _comparison(_name))


def other(size: Any) -> Any:
    """Return the value of a size in the second world; any other value unchanged."""
    return size.other if isinstance(size, Size) else size


def formula_of(size: int) -> Formula:
    """Return the formula of a size; a plain int is its own."""
    return size.formula if isinstance(size, Size) else int(size)


def tensors_in(formula: Any) -> Iterator[Any]:
    """Yield the tensors that a formula reads sizes of."""
    if isinstance(formula, Axis):
        yield formula.tensor
    elif isinstance(formula, Computed):
        yield from tensors_in(formula.left)
        yield from tensors_in(formula.right)


def with_axes(formula: Formula, change: Callable[[Axis], Axis]) -> Formula:
    """Return a formula with each size of a tensor changed."""
    if isinstance(formula, Axis):
        return change(formula)
    if isinstance(formula, Computed):
        left, right = with_axes(formula.left, change), with_axes(formula.right, change)
        return Computed(formula.sign, left, right)
    return formula


def evaluate(formula: Formula, size: Callable[[int, int], Any]) -> Any:
    """Return the value of a formula; `size(index, axis)` gives those of tensors."""
    if isinstance(formula, Axis):
        assert isinstance(formula.tensor, Slot)
        return size(formula.tensor.index, formula.axis)
    if isinstance(formula, Computed):
        compute = _ARITHMETIC[formula.sign]
        return compute(evaluate(formula.left, size), evaluate(formula.right, size))
    return formula


def deep(structure: Any, change: Callable[[Any], Any]) -> Any:
    """Return a structure with each leaf changed, also inside slices."""
    if isinstance(structure, slice):
        parts = structure.start, structure.stop, structure.step
        return slice(*(deep(part, change) for part in parts))
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(deep(item, change) for item in structure))
    if isinstance(structure, list | tuple):
        kind = list if isinstance(structure, list) else tuple
        return kind(deep(item, change) for item in structure)
    if isinstance(structure, dict):
        return {key: deep(item, change) for key, item in structure.items()}
    return change(structure)


def leaves(structure: Any) -> list[Any]:
    """Return the leaves of a structure, also those inside slices."""
    found: list[Any] = []
    deep(structure, found.append)
    return found
