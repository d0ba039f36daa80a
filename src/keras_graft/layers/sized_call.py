"""`SizedCall`: a call of an op of Keras whose arguments hold sizes that are read from its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import BuildError
from keras_graft.graph.node import Slot
from keras_graft.graph.sizes import Axis, Computed, Formula, deep, evaluate, leaves
from keras_graft.printable import shown

Pair = tuple[int, int]
"""A size in two worlds: different where it is not known."""

UNKNOWN: Pair = (96, 144)
"""The sizes that stand for one that was known when the call was recorded, and is not any more."""


class SizedCall:
    """A call of an op, or of a function that makes or draws a tensor.

    Args:
        target: `"op:numpy.Reshape"`, `"ops:arange"` or `"random:normal"`.
        attributes: The attributes of the op.
        args: The positional arguments, with a `Slot` for each tensor.
        kwargs: The other arguments.
        worlds: For each tensor, its sizes in two worlds: with these the code was tried.
    """

    def __init__(
        self, target: str, attributes: Mapping[str, Any], args: Sequence[Any],
        kwargs: Mapping[str, Any], worlds: Sequence[Sequence[Pair]],
    ) -> None:  # fmt: skip
        self.target = target
        self.attributes = dict(attributes)
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        self.worlds = [tuple((int(a), int(b)) for a, b in sizes) for sizes in worlds]
        kind, _, self.name = target.partition(":")
        self.random = kind == "random"
        self._class = _keras.op_class(self.name) if kind == "op" else None
        names = _keras.DRAWS if self.random else (*_keras.MAKES, "convert_to_tensor")
        if self._class is None and (kind == "op" or self.name not in names):
            raise BuildError(f"{shown(target)} is not an op of Keras {keras.__version__}.")

    def run(self, tensors: Sequence[Any], **more: Any) -> Any:
        """Make the call on tensors."""
        shape: Any = keras.ops.shape
        return self._filled(tensors, lambda i, axis: shape(tensors[i])[axis], more)

    def spec(self, tensors: Sequence[Any]) -> Any:
        """Return what the call gives for symbolic tensors: it is inferred in both worlds.

        A size that was known and is not any more may be any, unless the call takes only the one that
        was known: `reshape(x, (-1, 48))`.
        """
        try:
            return self._spec(tensors)
        except Exception:
            as_recorded = [self._as_recorded(i, tensor) for i, tensor in enumerate(tensors)]
            if all(a is b for a, b in zip(as_recorded, tensors, strict=True)):
                raise
            return self._spec(as_recorded)

    def _as_recorded(self, index: int, tensor: Any) -> Any:
        """Return a symbolic tensor with the sizes that were known when the call was recorded."""
        pairs = self.worlds[index]
        if len(pairs) != len(tensor.shape):
            return tensor
        shape = tuple(
            a if size is None and a == b else size
            for size, (a, b) in zip(tensor.shape, pairs, strict=True)
        )
        return tensor if shape == tuple(tensor.shape) else keras.KerasTensor(shape, tensor.dtype)

    def _spec(self, tensors: Sequence[Any]) -> Any:
        first, second = (self._inferred(tensors, world) for world in (0, 1))
        flat, other = keras.tree.flatten(first), keras.tree.flatten(second)
        made = [
            keras.KerasTensor(
                tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)), a.dtype
            )
            for a, b in zip(flat, other, strict=True)
        ]
        return keras.tree.pack_sequence_as(first, made)

    def _inferred(self, tensors: Sequence[Any], world: int) -> Any:
        shapes = [
            tuple(
                _known(d, world, self.worlds[i][axis] if axis < len(self.worlds[i]) else UNKNOWN)
                for axis, d in enumerate(t.shape)
            )
            for i, t in enumerate(tensors)
        ]
        twins = [
            keras.KerasTensor(shape, t.dtype) for shape, t in zip(shapes, tensors, strict=True)
        ]
        size = lambda i, axis: shapes[i][axis]  # noqa: E731
        if self._class is not None:
            op, args, kwargs = self._op(twins, size)
            return op.compute_output_spec(*args, **kwargs)
        more = {"seed": 0} if self.random else {}
        return inferred_function(lambda *given: self._filled(given, size, more), twins)

    def _filled(
        self, tensors: Sequence[Any], size: Callable[[int, int], Any], more: Mapping[str, Any]
    ) -> Any:
        if self._class is not None:
            op, args, kwargs = self._op(tensors, size)
            return op.call(*args, **kwargs)
        args, kwargs = deep((self.args, self.kwargs), _filler(tensors, size))
        return _keras.function_named(self.name, self.random)(*args, **kwargs, **more)

    def _op(self, tensors: Sequence[Any], size: Callable[[int, int], Any]) -> tuple[Any, Any, Any]:
        fill = _filler(tensors, size)
        assert self._class is not None
        op = _keras.bare_op(self._class, deep(self.attributes, fill), self.name)
        return op, deep(self.args, fill), deep(self.kwargs, fill)

    def bare(self) -> Any:
        """Return the op that is called, with its attributes as they are noted; None for a function."""
        if self._class is None:
            return None
        return _keras.bare_op(self._class, self.attributes, self.name)

    def form(self) -> Any:
        """Return plain data that is equal for equal calls."""
        return [self.target, *(_written(x) for x in (self.attributes, self.args, self.kwargs))]

    def get_config(self) -> dict[str, Any]:
        """Return the call as plain data."""
        return {
            "target": self.target,
            "attributes": _written(self.attributes),
            "args": _written(self.args),
            "kwargs": _written(self.kwargs),
            "worlds": [[list(pair) for pair in sizes] for sizes in self.worlds],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SizedCall:
        """Return the call that plain data describes."""
        attributes, args, kwargs = (
            _read(config[name]) for name in ("attributes", "args", "kwargs")
        )
        return cls(config["target"], attributes, args, kwargs, config["worlds"])


def inferred_function(function: Callable[..., Any], tensors: Sequence[Any]) -> Any:
    """Return what a function of tensors gives, without running it on data."""
    return _Function(function).compute_output_spec(*tensors)


class _Function(keras.Operation):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name="function")
        self.call = function


def _known(size: int | None, world: int, pair: Pair) -> int:
    if size is not None:
        return size
    return pair[world] if pair[0] != pair[1] else UNKNOWN[world]


def _filler(tensors: Sequence[Any], size: Callable[[int, int], Any]) -> Callable[[Any], Any]:
    def fill(leaf: Any) -> Any:
        if isinstance(leaf, Slot):
            return tensors[leaf.index]
        return evaluate(leaf, size) if isinstance(leaf, Axis | Computed) else leaf

    return fill


def has_sizes(structure: Any) -> bool:
    """Whether a structure holds sizes that are not known."""
    return any(isinstance(leaf, Axis | Computed) for leaf in leaves(structure))


def _written(item: Any) -> Any:
    if isinstance(item, Slot):
        return {"tensor": item.index}
    if isinstance(item, Axis):
        return {"size": [item.tensor.index, item.axis]}
    if isinstance(item, Computed):
        return {"computed": [item.sign, _written(item.left), _written(item.right)]}
    if isinstance(item, slice):
        return {"slice": [_written(part) for part in (item.start, item.stop, item.step)]}
    if item is Ellipsis:
        return {"ellipsis": True}
    if isinstance(item, tuple):
        return {"tuple": [_written(part) for part in item]}
    if isinstance(item, list):
        return [_written(part) for part in item]
    if isinstance(item, dict):
        return {"dict": [[key, _written(value)] for key, value in item.items()]}
    if item is None or type(item) in (int, float, str, bool):
        return item
    return {"object": keras.saving.serialize_keras_object(item)}


def _read(item: Any) -> Any:
    if isinstance(item, list):
        return [_read(part) for part in item]
    if not isinstance(item, dict):
        return item
    ((kind, value),) = item.items()
    if kind == "tensor":
        return Slot(value)
    if kind == "size":
        return Axis(Slot(value[0]), value[1])
    if kind == "computed":
        return Computed(value[0], _formula(value[1]), _formula(value[2]))
    if kind == "slice":
        return slice(*map(_read, value))
    if kind == "ellipsis":
        return Ellipsis
    if kind == "tuple":
        return tuple(map(_read, value))
    if kind == "dict":
        return {key: _read(part) for key, part in value}
    if kind == "object":
        return keras.saving.deserialize_keras_object(value)
    raise BuildError(f"{shown(kind)} is not a form of an argument.")


def _formula(item: Any) -> Formula:
    found = _read(item)
    if not isinstance(found, Axis | Computed | int):
        raise BuildError(f"{shown(item)} is not a size.")
    return found
