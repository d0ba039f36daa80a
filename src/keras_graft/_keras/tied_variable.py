"""Tied variables: a variable whose value is computed from another, as by a transpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft._keras.adapters import adapters_of, with_adapters


@dataclass(frozen=True)
class Transform:
    """How a weight is computed from another.

    Attributes:
        name: The name in a file.
        forward: From the source's value to the target's. Gradients pass through it.
        inverse: From the target's value to the source's, for files that hold the target's.
        shape: From the source's shape to the target's; raises ValueError for one it cannot take.
    """

    name: str
    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2:
        raise ValueError("a transpose needs at least two dimensions")
    return (*shape[:-2], shape[-1], shape[-2])


def _turn(value: Any) -> Any:
    axes = list(range(len(value.shape)))
    return keras.ops.transpose(value, [*axes[:-2], axes[-1], axes[-2]])


AS_IT_IS = Transform("", lambda value: value, lambda value: value, tuple)
"""The transform of a tie that has none."""

TRANSFORMS = {"transpose": Transform("transpose", _turn, _turn, _turned)}


class Tied(keras.Variable):
    """A variable whose value is always computed from the present value of another.

    A model knows only the other one: it trains, counts and saves that. If the layer of the other
    one has LoRA adapters, or gets them later, they are part of this variable's value. Uses
    `Variable._value`, `_shape`, `_ndim`, `_name`, `_path`, `_maybe_autocast` (3.12 - 3.15).

    Args:
        source: The other variable.
        owner: The layer that it belongs to.
        transform: How this one is computed from it.
        old: The variable whose place this one takes.
    """

    def __init__(self, source: Any, owner: Any, transform: Transform, old: Any) -> None:
        # The constructor would make a value.
        for key, value in vars(source).items():
            if key not in ("_value", "_seen") and not key.startswith(
                "_self_"
            ):  # TensorFlow's own bookkeeping
                self.__dict__[key] = value
        shape = transform.shape(tuple(source.shape))
        self.__dict__.update(
            source=source, owner=owner, transform=transform, _shape=shape, _ndim=len(shape),
            _name=old._name, _path=old._path,
        )  # fmt: skip

    def over(self, source: Any, owner: Any) -> Tied:
        """Return the same variable for another source."""
        new = object.__new__(Tied)
        new.__dict__.update(vars(self), source=source, owner=owner)
        return new

    def copied(self, copy: Callable[[Any], Any]) -> Tied:
        """Return the same variable for a copied source."""
        return self.over(copy(self.source), copy(self.owner))

    @property
    def adapters(self) -> tuple[Any, ...]:
        """The LoRA adapters that the layer of the source has for it."""
        return adapters_of(self.owner, self.source)

    @property
    def value(self) -> Any:
        """The source's value with its adapters, transformed."""
        found = with_adapters(self.owner, self.source)
        return self.transform.forward(self._maybe_autocast(found) if self.adapters else found)

    @property
    def _value(self) -> Any:
        found = with_adapters(self.owner, self.source, lambda variable: variable._value)
        return self.transform.forward(found)

    def assign(self, value: Any) -> Any:
        """Set the source so that this variable is `value`. What adapters add is reset to zero."""
        if value is self:
            return value.value
        value = keras.ops.convert_to_tensor(value, dtype=self._dtype)
        if tuple(value.shape) != tuple(self._shape):
            raise ValueError(f"{self._path!r} has shape {self._shape}, got {tuple(value.shape)}.")
        self.source.assign(self.transform.inverse(value))
        for factor in self.adapters[1::2]:
            factor.assign(keras.ops.zeros(factor.shape, factor.dtype))
        return value

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """The flag of the source."""
        return self.source.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.source.trainable = value
