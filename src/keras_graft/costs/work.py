"""`Work`: what one call computes. `Call`: what a rule is told about it. `rule`: the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_graft.costs.formula import Number, Unknown, product


class Dims(tuple[Any, ...]):
    """The shape of a tensor, with numbers or formulas."""

    @property
    def size(self) -> Any:
        """How many values the tensor has."""
        return product(self)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Dims(found) if isinstance(at, slice) else found


@dataclass(frozen=True)
class Work:
    """What a call computes.

    Attributes:
        multiply_adds: Multiplications of matrix products and convolutions, each with its addition.
        operations: Everything else that is computed for a value: additions, multiplications,
            comparisons, functions. None where it is not known.
        padding: The multiply-adds that only multiply zeros which padding adds. They are part of
            `multiply_adds`.
    """

    multiply_adds: Number = 0
    operations: Number | None = 0
    padding: Number = 0

    def __add__(self, other: Work) -> Work:
        known = self.operations is not None and other.operations is not None
        return Work(
            self.multiply_adds + other.multiply_adds,
            self.operations + other.operations if known else None,  # type: ignore[operator]
            self.padding + other.padding,
        )

    def times(self, number: Any) -> Work:
        """Return the work of so many calls."""
        operations = None if self.operations is None else self.operations * number
        return Work(self.multiply_adds * number, operations, self.padding * number)


@dataclass(frozen=True)
class Call:
    """A call of an operation.

    Attributes:
        operation: The layer or op.
        args: The recorded arguments, with `Dims` for each tensor, variable and array.
        kwargs: The other arguments, likewise.
        inputs: The shapes of the tensors that it reads.
        outputs: The shapes of the tensors that it gives.
        inner: Counts the call of a layer inside, from the shapes of what it reads and gives.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]
    inner: Callable[[Any, tuple[Dims, ...], tuple[Dims, ...]], Work]

    @property
    def first(self) -> Dims:
        """The shape of the first tensor that it reads."""
        return self.inputs[0]

    @property
    def out(self) -> Dims:
        """The shape of the first tensor that it gives."""
        return self.outputs[0]

    def tensor(self, index: int, name: str) -> Dims | None:
        """Return the shape of an argument; None if it is no tensor."""
        given = self.args[index] if index < len(self.args) else self.kwargs.get(name)
        return given if isinstance(given, Dims) else None


@dataclass(frozen=True)
class Rule:
    """How the work of an operation is counted.

    Attributes:
        count: Returns the work of a call.
        source: Where the rule comes from, in a line.
    """

    count: Callable[[Call], Work]
    source: str


RULES: dict[Any, Rule] = {}
"""The rules: by the class of a layer, or by the name of an op, such as `"numpy.Matmul"`."""


def rule(*names: Any, source: str) -> Callable[[Callable[[Call], Work]], Callable[[Call], Work]]:
    """Make a function the rule of these layer classes and ops."""

    def add(function: Callable[[Call], Work]) -> Callable[[Call], Work]:
        RULES.update(dict.fromkeys(names, Rule(function, source)))
        return function

    return add


def not_known(*names: Any, why: str) -> None:
    """Say of layer classes and ops that no rule counts them, and why."""

    def refuse(call: Call) -> Work:
        raise Unknown(why)

    RULES.update(dict.fromkeys(names, Rule(refuse, f"unknown: {why}")))
