"""What `patch` puts in the place of a value: checked against the value, and traced there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_graft.edit.changes import Made
from keras_graft.edit.incoming import At
from keras_graft.edit.places import WhatComesIn
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import safe
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.inside.given import Given
from keras_graft.layers import Patched
from keras_graft.model.described import function_name, layer_data, unwritten
from keras_graft.printable import quoted, shown

_WRITTEN = 4096
"""The most numbers of an array that a step holds."""


class Replacement:
    """What replaces a value, or several values that one selector names.

    Args:
        new: What the user gave: a number, an array, a function of the tensor, a layer or a `Given`.

    Raises:
        EditError: If it is none of these.
    """

    def __init__(self, new: Any) -> None:
        self.new = new
        self.given = new if isinstance(new, Given) else None
        self.input: Value | None = None
        """For a `Given`: the input of the graph."""
        self._array = None if self.given or callable(new) else _array(new)
        function = self.given.function if self.given else new
        self._function = _of_tensors(function) if callable(function) else None
        if isinstance(new, type) or isinstance(function, type):
            raise EditError(f"patch: {shown(new)} is a class; give a layer or a function.")
        if self.given:
            _check(self.given)
        self._changed = self._function and WhatComesIn(self._function, "patch")
        # A factory may return several layers, and a layer that is given is only one.
        self._instead = WhatComesIn(lambda node: Patched(self._array), "patch")

    def input_at(self, value: Value, path: str) -> Value:
        """Return the input for a `Given` at a value."""
        given, spec = self.given, value.spec
        assert given is not None and spec is not None
        shape = spec.shape if given.shape is None else (*spec.shape[:1], *given.shape)
        dtype = spec.dtype if given.dtype is None else keras.backend.standardize_dtype(given.dtype)
        return Value(Spec(shape, dtype), given.name or f"{safe(path)}_given")

    def begin(self, values: Sequence[Value]) -> None:
        """Add the places of one level."""
        self._instead.begin(values)
        if self._changed:
            self._changed.begin(values)

    def put(self, graph: Graph, value: Value) -> Made:
        """Return the nodes that make the new value, and that value."""
        spec, label = value.spec, graph.label(value)
        assert spec is not None
        if spec.sparse or spec.ragged:
            raise EditError(
                f"patch {label!r}: the value is {spec}, and only dense tensors can be patched."
            )
        if self._array is not None:
            self._check_array(label, spec)
            return self._trace(self._instead, graph, value)
        if self.input is not None:
            about = f"patch {label!r}: the input {self.input.name!r}"
            _check_spec(about, self.input.spec, spec, not self._changed)
        if not self._changed:
            assert self.input is not None
            return self._trace(self._instead, graph, value, self.input)
        steps, outputs = self._trace(self._changed, graph, value, self.input)
        if len(outputs) != 1:
            raise EditError(
                f"patch {label!r}: {shown(self.new)} gives {len(outputs)} values, and one is needed."
            )
        about = f"patch {label!r}: what {shown(self.new)} returns"
        _check_spec(about, outputs[0].spec, spec)
        # Also where it has the spec of the value: an op loses the mask of its tensor.
        more, outputs = self._trace(self._instead, graph, value, outputs[0])
        return [*steps, *more], outputs

    def _trace(
        self, what: WhatComesIn, graph: Graph, value: Value, other: Value | None = None
    ) -> Made:
        reads = (value,) if other is None else (value, other)
        try:
            return what.put(At(graph, reads, value.producer, "patch", value))[:2]
        except EditError as error:
            if isinstance(self.new, keras.Layer):
                raise
            raise EditError(
                f"{error}\nWrite the function with keras.ops. For a value that does not depend on "
                "the tensor, give the number or the array itself."
            ) from error

    def _check_array(self, label: str, spec: Spec) -> None:
        array = self._array
        assert array is not None
        about = f"patch {label!r}: the array"
        _check_spec(about, Spec(array.shape, str(array.dtype)), spec)

    def written(self) -> Any:
        """Return it as plain data, for the step that is recorded."""
        if self.given is not None:
            found: dict[str, Any] = {"as_input": self.given.name}
            if self.given.function is not None:
                name = function_name(self.given.function)
                if name is None:
                    return unwritten(self.given.function)
                found["function"] = name
            if self.given.shape is not None:
                found["shape"] = list(self.given.shape)
            return found if self.given.dtype is None else {**found, "dtype": self.given.dtype}
        if self._array is not None:
            if self._array.size > _WRITTEN:
                return unwritten(f"an array of {self._array.size:,} numbers")
            if not np.isfinite(self._array.astype("float64")).all():
                return unwritten("an array with numbers that are not finite")
            return {"array": self._array.tolist()} if self._array.shape else self._array.item()
        if isinstance(self.new, keras.Layer):
            return layer_data(self.new, fresh=False)
        name = function_name(self.new)
        return {"function": name} if name else unwritten(self.new)


def _of_tensors(function: Any) -> Any:
    """Return a factory of a function: `put_in` would first call it with a node."""
    if isinstance(function, keras.Layer):
        return function

    def factory(node: Any) -> Callable[..., Any]:
        return function  # type: ignore[no-any-return]

    return factory


def _check(given: Given) -> None:
    name, shape = given.name, given.shape
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise EditError(f"patch: Given({shown(name)}): give a name, without a slash.")
    if given.function is not None and not callable(given.function):
        raise EditError(f"patch: Given(function={shown(given.function)}): give a function.")
    whole = isinstance(shape, tuple | list) and all(
        size is None or (type(size) is int and size > 0) for size in shape
    )
    if shape is not None and not whole:
        raise EditError(
            f"patch: Given(shape={shown(shape)}): give the shape of one sample, such as (1, 8)."
        )
    if given.dtype is not None and not _is_dtype(given.dtype):
        raise EditError(f"patch: Given(dtype={shown(given.dtype)}): no dtype of Keras.")


def _is_dtype(dtype: Any) -> bool:
    try:
        return isinstance(dtype, str) and bool(keras.backend.standardize_dtype(dtype))
    except ValueError:
        return False


def _array(new: Any) -> np.ndarray:
    if new is not None and not isinstance(new, str | bytes | keras.KerasTensor | Node | Value):
        try:
            array = np.asarray(keras.ops.convert_to_numpy(new))
        except Exception:  # an object of the user's own
            array = np.asarray(None)
        if array.dtype.kind in "biuf" or array.dtype.name.startswith(("bfloat", "float8")):
            return array
    raise EditError(
        f"patch: {shown(new)} replaces no value: give a number, an array, a function of the tensor, "
        'or kg.Given("name").'
    )


def _check_spec(what: str, spec: Spec | None, wanted: Spec, shape: bool = True) -> None:
    """Refuse what does not broadcast to a value, or has another kind of dtype.

    Raises:
        EditError: With the place, what is expected, and what was found.
    """
    if spec is None:
        return
    floats = "float" in spec.dtype and "float" not in wanted.dtype
    if floats:
        raise EditError(
            f"{what} is {spec}, and the value there is {wanted}: give whole numbers, "
            f"x.astype({quoted(wanted.dtype)})."
        )
    if not shape:
        return
    given, place = spec.shape, wanted.shape
    fits = len(given) <= len(place) and all(
        a == 1 or b is None or a is None or a == b
        for a, b in zip(given[::-1], place[::-1], strict=False)
    )
    if fits:
        return
    alike = ", ".join("?" if d is None else str(d) for d in place[1:])
    raise EditError(
        f"{what} is {spec}, and does not broadcast to the value there, {wanted}. Give one of "
        f"shape (1, {alike}), or of any shape that NumPy broadcasts to that."
    )
