"""How many bytes one sample of a value takes; where a length is unknown, by which lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any

from keras_graft.errors import SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import is_one_of
from keras_graft.graph.node import Spec, Value
from keras_graft.look.strides import Resolution, resolutions
from keras_graft.look.wiring import Wiring
from keras_graft.model.infer import infer
from keras_graft.printable import quoted, shown
from keras_graft.tables import in_bytes

_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Size:
    """How many bytes one sample takes.

    Attributes:
        bytes: The number; None if a length is unknown.
        each: The bytes without the unknown lengths. None if the dtype has no size.
        lengths: The names of the unknown lengths. `height`, `width` and `length` are those of the
            model's input.
    """

    bytes: int | None
    each: float | None
    lengths: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """Where it belongs in an order by size; the unknown lengths count as one."""
        return self.each is None, self.each or 0.0

    def times(self, number: int) -> str:
        """Return the size of so many samples as text."""
        if self.each is None:
            return "?"
        return " x ".join([in_bytes(self.each * number), *self.lengths])

    def __str__(self) -> str:
        return self.times(1)


class Sizes:
    """Measures values of one graph.

    Args:
        graph: The graph.
        dtype: What floating values are kept as; None: their own dtypes.
        verb: The name of the function, for errors.

    Raises:
        SelectionError: If `dtype` is no floating dtype.
    """

    def __init__(self, graph: Graph, dtype: Any, verb: str) -> None:
        if dtype is not None and not is_one_of(dtype, *DTYPES):
            raise SelectionError(
                f"{verb}: dtype= is one of {', '.join(map(repr, DTYPES))}, or None for each "
                f"value's own, got {shown(dtype)}."
            )
        self._graph, self._dtype = graph, dtype
        self._known: dict[Any, Resolution] | None = None

    def of(self, value: Value) -> Size:
        """Return the size of one sample of a value."""
        spec = value.spec
        if spec is None or not spec.shape:
            return Size(None, None)
        if self._dtype is not None and spec.dtype.startswith(("float", "bfloat")):
            spec = dataclasses.replace(spec, dtype=self._dtype)
        given = spec.bytes_per_sample
        if given is not None:
            return Size(given, float(given))
        ones = tuple(1 if d is None else d for d in spec.shape[1:])
        each = dataclasses.replace(spec, shape=(None, *ones)).bytes_per_sample
        if each is None:
            return Size(None, None)
        open_axes = [i for i, d in enumerate(spec.shape) if i and d is None]
        names, scale = self._named(value, spec, open_axes)
        return Size(None, float(each / scale), tuple(names))

    def _named(self, value: Value, spec: Spec, axes: list[int]) -> tuple[list[str], Fraction]:
        """Return the names of unknown axes, and by how much they are shorter than the input's."""
        known = named(spec, self._resolution(value))
        if known is None:
            return [f"axis {i}" for i in axes], Fraction(1)
        found, scale = [], Fraction(1)
        for i in axes:
            name, by = known.get(i, (f"axis {i}", Fraction(1)))  # else the channels
            found.append(name)
            scale *= by
        return found, scale

    def _resolution(self, value: Value) -> Resolution | None:
        if self._known is None:
            self._wiring = Wiring(self._graph)
            self._known = resolutions(self._wiring)
        source = self._wiring.source(value)
        return None if source is None or source.place is None else self._known.get(source.place)


def named(spec: Spec, at: Resolution | None) -> dict[int, tuple[str, Fraction]] | None:
    """Return for each axis of a map or a sequence its name and its stride.

    Args:
        spec: The spec of the value.
        at: Its resolution.

    Returns:
        By axis: `height`, `width`, `length` of the model's input, and by how much shorter the axis
        is. None if that is not known.
    """
    if at is None or not at.sure or len(at.stride) + 2 != len(spec.shape):
        return None
    start = 2 if at.first else 1
    names = _AXES.get(len(at.stride), tuple(f"axis {i + start}" for i in range(len(at.stride))))
    return {i + start: pair for i, pair in enumerate(zip(names, at.stride, strict=True))}


def sized(graph: Graph, input_shape: Any, verb: str) -> Graph:
    """Return the graph with the unknown lengths of its inputs filled in.

    Args:
        graph: The graph.
        input_shape: The shape of one sample, without the batch: of each input that it fits, or a
            dict of shapes by the names of inputs. None changes nothing.
        verb: The name of the function, for errors.

    Raises:
        SelectionError: If a shape fits no input.
        BuildError: If a layer does not take that shape.
    """
    if input_shape is None:
        return graph
    wanted = input_shape if isinstance(input_shape, Mapping) else {None: input_shape}
    inputs = dict(zip(graph.input_names, graph.inputs, strict=True))
    filled = {}
    for name, shape in wanted.items() or [(None, ())]:
        sizes = _whole(shape)
        among = inputs if name is None else {n: v for n, v in inputs.items() if n == name}
        fits = {n: v for n, v in among.items() if sizes and _fits(v.spec, sizes)}
        if not fits:
            has = ", ".join(f"{quoted(n)} {v.spec}" for n, v in inputs.items())
            raise SelectionError(
                f"{verb}: input_shape={shown(input_shape)} fits no input of {graph.name!r}: give "
                "the shape of one sample, as input_shape=(224, 224, 3), or a dict of shapes by "
                f"name. Its inputs: {has}."
            )
        filled |= {
            n: dataclasses.replace(v.spec, shape=(None, *sizes)) for n, v in fits.items() if v.spec
        }
    new = [v.with_spec(filled[n]) if n in filled else v for n, v in inputs.items()]
    return infer(graph.replace(inputs=[v.within(None) for v in new]), run=False)


def _whole(shape: Any) -> tuple[int, ...]:
    """Return a shape; empty if it is none."""
    if not isinstance(shape, list | tuple):
        return ()
    whole = [isinstance(d, Integral) and not isinstance(d, bool) and int(d) > 0 for d in shape]
    return tuple(map(int, shape)) if all(whole) else ()


def _fits(spec: Spec | None, shape: tuple[int, ...]) -> bool:
    return spec is not None and len(spec.shape) == len(shape) + 1 and all(
        known in (None, d) for known, d in zip(spec.shape[1:], shape, strict=True)
    )  # fmt: skip
