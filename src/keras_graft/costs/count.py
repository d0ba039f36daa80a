"""`Counter`: the work of each call of a graph, from the rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import layers

from keras_graft.costs.find import rule_of
from keras_graft.costs.formula import Formula, Lost, Number, Unknown, divided
from keras_graft.costs.inside import alone
from keras_graft.costs.probe import probed
from keras_graft.costs.products import einsum_shape
from keras_graft.costs.work import Call, Dims, Work
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.record import record_of, unwrapped
from keras_graft.layers.dynamic_op import DynamicOp
from keras_graft.model.calls import fill

Place = tuple[tuple[Any, ...], Any]
"""Where a call is: the keys of the nested calls around it, and its own key."""

Axes = Callable[[Place, int, Spec], Sequence[Any]]
"""Returns the lengths of an output of a call, with a formula or `Lost` where one is unknown."""


@dataclass(frozen=True)
class Counted:
    """What is known about one call that has no graph inside.

    Attributes:
        path: Its path.
        work: What it computes; None if that is not known.
        why: Why something is not known.
    """

    path: str
    work: Work | None
    why: str = ""


class Counter:
    """Counts the calls of a graph.

    Attributes:
        found: The calls that have no graph inside.
        given: For each call, the bytes of its outputs; None if not known, and why.

    Args:
        axes: Returns the lengths of the outputs of a call.
        starts: The shapes of the inputs of the graph.
        batch: How many samples.
        fixed: The batch size that the graph was made for; None for any.
    """

    def __init__(self, axes: Axes, starts: Sequence[Dims], batch: int, fixed: int | None) -> None:
        self._axes, self._starts, self._batch, self._fixed = axes, starts, batch, fixed
        self.found: dict[Place, Counted] = {}
        self.given: dict[Place, tuple[Number | None, str]] = {}
        self._named: dict[Any, Sequence[Any]] = {}
        self._probed: dict[Place, list[tuple[Any, ...]] | None] = {}

    def count(self, graph: Graph) -> dict[Place, Counted]:
        """Count the calls; return those that have no graph inside, in order."""
        given = {v.key: dims for v, dims in zip(graph.inputs, self._starts, strict=True)}
        self._level(graph, (), (), given)
        return self.found

    def _level(
        self, graph: Graph, scope: tuple[Any, ...], names: tuple[str, ...], known: dict[Any, Dims]
    ) -> dict[Any, Dims]:
        for node in graph.steps:
            place = scope, node.key
            reads = [known.get(v.key) or self._plain(v.spec) for v in node.reads]
            label = (*names, graph.label(node))
            if node.nested is not None:
                gives = self._nested(node, (*scope, node.key), label, reads)
            else:
                gives = [self._dims(place, i, v, node, reads) for i, v in enumerate(node.gives)]
                self.found[place] = self._counted(node, "/".join(label), reads, gives)
            self.given[place] = _size(node, gives)
            known.update({v.key: dims for v, dims in zip(node.gives, gives, strict=True)})
        return known

    def _nested(
        self, node: Node, scope: tuple[Any, ...], names: tuple[str, ...], reads: Sequence[Dims]
    ) -> list[Dims]:
        nested = node.nested
        assert nested is not None
        inside = {}
        for value, entry in zip(nested.inputs, node.entries, strict=False):
            if entry.source is not None:
                found = reads[entry.source]
                rank = len(value.spec.shape) if value.spec else len(found)
                inside[value.key] = found[:rank] if rank <= len(found) else Dims((*found, 1))
        inside = self._level(nested, scope, names, inside)
        leaving = [*nested.outputs, *(mask for _, mask in node.unseen)]
        return [inside.get(v.key) or self._plain(v.spec) for v in leaving]

    def _plain(self, spec: Spec | None) -> Dims:
        if spec is None:
            return Dims((Lost("the shape of what it reads is not known"),))
        return self._filled(spec.shape, 1)

    def _filled(self, shape: Sequence[Any], leading: Any) -> Dims:
        first = [
            self._batch * leading if i == 0 and d in (None, self._fixed) else d
            for i, d in enumerate(shape)
        ]
        return Dims(
            Lost(f"the length of axis {i} is not known") if d is None else d
            for i, d in enumerate(first)
        )

    def _dims(
        self, place: Place, index: int, value: Value, node: Node, reads: Sequence[Dims]
    ) -> Dims:
        """Return the shape of an output; the first axis may be several times the batch."""
        spec = value.spec
        if spec is None:
            return Dims((Lost("the shape that it gives is not known"),))
        shape = self._axes(place, index, spec)
        self._named[value.key] = shape
        if None in spec.shape[1:]:
            shape = self._known(node, shape, reads)
        if None in spec.shape and place not in self._probed:
            lost = any(d is None or isinstance(d, Lost) for d in shape[1:])
            self._probed[place] = probed(node, reads, lost)
        again = self._probed.get(place)
        if again is not None and index < len(again) and len(again[index]) == len(shape):
            pairs = enumerate(zip(spec.shape, shape, again[index], strict=True))
            shape = [
                now if length is None and now is not None and (
                    i == 0 or isinstance(now, int) or isinstance(before, Lost)
                ) else before
                for i, (length, before, now) in pairs
            ]  # fmt: skip
            if shape[0] is not None:
                return Dims(shape)
        if not shape or shape[0] not in (None, self._fixed):
            return self._filled(shape, 1)
        if type(node.operation).__name__ == "DynamicOp":
            name = node.operation.sized.name
        else:
            name = type(node.operation).__name__
        if name.endswith("Reshape") and reads and shape[0] is None:
            try:
                return Dims((divided(reads[0].size, Dims(shape[1:]).size), *shape[1:]))
            except (Unknown, ZeroDivisionError, TypeError):
                return self._filled(shape, 1)
        firsts = [
            dims[0] for v, dims in zip(node.reads, reads, strict=True)
            if v.spec is not None and v.spec.shape and v.spec.shape[0] is None
        ]  # fmt: skip
        wide = next((d for d in firsts if d != self._batch), self._batch)
        return Dims((wide, *self._filled((1, *shape[1:]), 1)[1:]))

    def _known(self, node: Node, shape: Sequence[Any], reads: Sequence[Dims]) -> Sequence[Any]:
        """Return a shape with the lengths that Keras leaves open, but that what is read has."""
        operation: Any = unwrapped(node.operation)
        if isinstance(operation, layers.EinsumDense) and reads:
            kernel: Any = operation.kernel
            found = einsum_shape(operation.equation, reads[0], kernel.shape)
            return (shape[0], *found[1:])
        result = list(shape)
        for value, dims in zip(node.inputs, reads, strict=False):
            named = self._named.get(value.key, ())
            if len(named) != len(shape) or len(dims) != len(shape):
                continue
            for i, length in enumerate(named):
                if isinstance(length, Formula) and length == shape[i]:
                    result[i] = dims[i]
        return result

    def _counted(
        self, node: Node, path: str, reads: Sequence[Dims], gives: Sequence[Dims]
    ) -> Counted:
        try:
            work = self._work(node, reads, gives)
        except Unknown as error:
            return Counted(path, None, str(error))
        unknown = work.operations is None
        return Counted(path, work, "how many operations it takes is not known" if unknown else "")

    def _work(self, node: Node, reads: Sequence[Dims], gives: Sequence[Dims]) -> Work:
        operation, template = unwrapped(node.operation), node.template
        args, kwargs = template.args, dict(template.kwargs)
        if isinstance(operation, DynamicOp):
            sized = operation.sized
            operation, args, kwargs = sized.bare(), sized.args, dict(sized.kwargs)
        rule = rule_of(node.operation)
        if rule is None:
            why = node.closed
            outputs = tuple(gives[: len(node.outputs)])
            if why is None and len(node.inputs) == 1:
                return self.inner(operation, tuple(reads[:1]), outputs)
            raise Unknown(why or f"there is no rule for {type(operation).__name__}")

        def leaf(item: Any) -> Any:
            shape = getattr(item, "shape", None)  # TensorFlow's is no tuple
            return item if isinstance(item, Dims) or shape is None else Dims(shape)

        args, kwargs = (fill(part, lambda i: reads[i], leaf) for part in (tuple(args), kwargs))
        call = Call(
            operation, args, kwargs, tuple(reads[: len(node.inputs)]),
            tuple(gives[: len(node.outputs)]), self.inner,
        )  # fmt: skip
        return rule.count(call) + _adapters(operation)

    def inner(self, layer: Any, inputs: tuple[Dims, ...], outputs: tuple[Dims, ...]) -> Work:
        """Count the call of a layer that is inside another one.

        Raises:
            Unknown: If a length is unknown, or no rule and no code says what the layer computes.
        """
        rule = rule_of(layer)
        if rule is not None:
            return rule.count(Call(unwrapped(layer), inputs, {}, inputs, outputs, self.inner))
        shapes = [tuple(dims) for dims in inputs]
        for dims in inputs:
            if not all(isinstance(d, int) for d in (dims.size, *dims)):
                raise Unknown(f"lengths that {layer.name!r} is called with are not known")
        graph = alone(layer, shapes, layer.compute_dtype, self._batch)
        starts = [self._plain(v.spec) for v in graph.inputs]
        fresh = Counter(lambda place, index, spec: spec.shape, starts, self._batch, None)
        total = Work()
        for one in fresh.count(graph).values():
            if one.work is None:
                raise Unknown(one.why)
            total += one.work
        return total


def _adapters(layer: Any) -> Work:
    """Return the work of the adapters of `kg.lora`: their factors are multiplied at each call."""
    total = Work()
    for made in record_of(layer).sums:
        for part in getattr(made, "parts", ()):
            size = math.prod(part.a.shape[:-1]) * math.prod(part.b.shape[1:])
            total += Work(size * part.b.shape[0], 2 * size)
    return total


def _size(node: Node, gives: Sequence[Dims]) -> tuple[Number | None, str]:
    """Return the bytes of the outputs of a call, or why they are not known."""
    try:
        pairs = zip(gives, node.outputs, strict=False)
        return sum((dims.size * _bytes(v.spec) for dims, v in pairs), 0), ""
    except Unknown as error:
        return None, str(error)


def _bytes(spec: Spec | None) -> int:
    """Return the bytes of one value."""
    found = None if spec is None else Spec((None, 1), spec.dtype).bytes_per_sample
    if found is None:
        raise Unknown("the dtype of what it gives has no size")
    return found
