"""Adapted variables: a frozen variable plus what low-rank adapters add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft._keras import private

Value = Callable[[Any], Any]
"""Returns the value of a variable."""


@dataclass(frozen=True)
class Part:
    """What one adapter adds to a weight: `scale` times the product of `a` and `b`.

    Attributes:
        a: The factor of shape `(*inputs, rank)`.
        b: The factor of shape `(rank, *outputs)`.
        scale: The number that scales the product.
        inputs: Which axes of the weight `a` has. `b` has the others.
    """

    a: Any
    b: Any
    scale: float
    inputs: tuple[int, ...]

    def copied(self, copy: Callable[[Any], Any]) -> Part:
        """Return the same part with copied variables."""
        return Part(copy(self.a), copy(self.b), self.scale, self.inputs)

    def product(self, value: Value) -> Any:
        """Return the product of the factors, in the shape of the weight."""
        a, b = value(self.a), value(self.b)
        rank, ndim = b.shape[0], len(a.shape) + len(b.shape) - 2
        shape = (*a.shape[:-1], *b.shape[1:])
        if ndim > 2:
            a, b = keras.ops.reshape(a, (-1, rank)), keras.ops.reshape(b, (rank, -1))
        made: Any = keras.ops.matmul(a, b)
        if ndim > 2:
            made = keras.ops.reshape(made, shape)
        outputs = [axis for axis in range(ndim) if axis not in self.inputs]
        order = [*self.inputs, *outputs]
        if order != sorted(order):
            made = keras.ops.transpose(made, [order.index(axis) for axis in range(ndim)])
        return made


class Adapted(keras.Variable):
    """A variable that is another one, never trained, plus what adapters add.

    A model knows only the other one and the factors of the adapters: it saves and trains those. No
    gradient is computed for the other one. Uses `Variable._value`, `_maybe_autocast`
    (3.12 - 3.16).

    Args:
        source: The other variable.
        parts: What the adapters add.
        factors: The factors of all adapters, also of those that add nothing.
    """

    def __init__(self, source: Any, parts: tuple[Part, ...] = (), factors: Any = ()) -> None:
        _look_like(self, source)
        self.__dict__.update(
            _trainable=False, source=source, parts=tuple(parts), factors=tuple(factors)
        )

    def copied(self, copy: Callable[[Any], Any]) -> Adapted:
        """Return the same sum of copied variables."""
        parts = tuple(part.copied(copy) for part in self.parts)
        return Adapted(copy(self.source), parts, tuple(map(copy, self.factors)))

    def total(self, value: Value) -> Any:
        """Return the sum in the dtype of the weight, with a function that gives values."""
        with private.AutocastScope(None):  # the sum is cast, not its terms
            made = keras.ops.stop_gradient(value(self.source))
            for part in self.parts:
                made = keras.ops.add(made, part.scale * part.product(value))
            return keras.ops.cast(made, self._dtype) if self.parts else made

    @property
    def value(self) -> Any:
        """The value of the source plus what the adapters add."""
        return self._maybe_autocast(self.total(lambda variable: variable.value))

    @property
    def _value(self) -> Any:
        return self.total(lambda variable: variable._value)

    def assign(self, value: Any) -> Any:
        """Set the source; the adapters stay."""
        return self.source.assign(value)

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Always False."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Do nothing: the source is never trained through this one."""


class Joined(keras.Variable):
    """One of two factors whose product is what several adapters add, for Keras's own LoRA.

    A quantized layer of Keras adds `inputs @ lora_kernel_a @ lora_kernel_b` to what its integers
    give. Uses `Variable._shape`, `_maybe_autocast` (3.12 - 3.16).

    Args:
        adapted: The sum, over the integers.
        second: Whether this is the second factor.
        whole: Whether the first is the whole sum of products, and the second the identity.
    """

    def __init__(self, adapted: Adapted, second: bool, whole: bool) -> None:
        _look_like(self, adapted.factors[0])
        self.__dict__.update(_trainable=False, adapted=adapted, second=second, whole=whole)
        shape = tuple(self.value.shape)
        self.__dict__.update(_shape=shape, _ndim=len(shape))

    def copied(self, copy: Callable[[Any], Any]) -> Joined:
        """Return the same factor of copied variables."""
        return Joined(copy(self.adapted), self.second, self.whole)

    def _made(self, value: Value) -> Any:
        parts = self.adapted.parts
        with private.AutocastScope(None):
            if self.whole and self.second:
                return keras.ops.eye(parts[0].b.shape[-1], dtype=self._dtype)
            if self.whole:
                products = [part.scale * part.product(value) for part in parts]
                return sum(products[1:], products[0])
            if self.second:
                return keras.ops.concatenate([p.scale * value(p.b) for p in parts], axis=0)
            return keras.ops.concatenate([value(p.a) for p in parts], axis=-1)

    @property
    def value(self) -> Any:
        """The factor."""
        return self._maybe_autocast(self._made(lambda variable: variable.value))

    @property
    def _value(self) -> Any:
        return self._made(lambda variable: variable._value)


def float_variable(value: Any, name: str, path: str) -> Any:
    """Return a trained float32 variable with a path (`Variable._path`, 3.12 - 3.16)."""
    new = keras.Variable(value, dtype="float32", trainable=True, name=name)
    new.__dict__["_path"] = path
    return new


def _look_like(new: Any, source: Any) -> None:
    """Give a computed variable the attributes of another one: the constructor would make a value."""
    for key, value in vars(source).items():
        if key not in ("_value", "_seen") and not key.startswith(
            "_self_"
        ):  # TensorFlow's own bookkeeping
            new.__dict__[key] = value
