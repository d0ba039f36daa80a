"""Propagate other input specs through a graph: into nested models, and into the first kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import advice
from keras_graft.errors import BuildError, EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.select import everything
from keras_graft.graph.walk import pruned
from keras_graft.model.abstract import Impossible
from keras_graft.model.build import build
from keras_graft.model.check_runs import rows, told, trial
from keras_graft.model.infer import infer, tried
from keras_graft.model.read import own_graph
from keras_graft.printable import words_of
from keras_graft.weights.channels import RULES, ChannelRule, channel_axis, with_channels

Specs = tuple[Spec, ...]
_Shape = tuple[int | None, ...]

_SHAPES = ("Flatten", "Reshape")
"""Layers that only change the shape: an error message suggests an edit before them."""


class Refit:
    """Gives the inputs of a graph other specs; used once.

    A nested model is built again if its own inputs no longer take what enters, changed as little
    as possible: once for all its calls, with the dimensions free in which they differ. The shapes
    every call needs are known only after propagation, so it repeats until they are stable. A
    dimension only ever becomes free, so the loop ends.
    """

    def __init__(self, rule: ChannelRule | None, graph: Graph, specs: Sequence[Spec]) -> None:
        self._rule = rule
        self._graph = graph
        self._specs = tuple(specs)
        self._channels = {
            (last, old.shape[axis], new.shape[axis])
            for value, new in zip(graph.inputs, specs, strict=True)
            if (old := value.spec) is not None and len(old.shape) > 1
            for last, axis in ((True, len(old.shape) - 1), (False, 1))
            if old.shape[axis] != new.shape[axis] and None not in (old.shape[axis], new.shape[axis])
        }
        self._wanted: dict[int, Specs] = {}
        self._made: dict[tuple[int, Specs], tuple[Any, Graph]] = {}
        self._layers: dict[int, Any] = {}
        self._agreed = True

    def run(self) -> Graph:
        """Return the graph with the new inputs.

        Raises:
            EditError: If something in it does not take its new inputs.
        """
        while True:
            self._agreed = True
            self._made.clear()
            graph = self._level(self._graph, self._specs, ())
            if self._agreed:
                break
        if self._rule is not None and not self._layers:
            raise EditError(
                f"reinput: channels={self._rule!r}, and no layer needs it: no convolution, Dense or "
                "normalization reads another number of channels than before. Give it in shape=..., "
                "or leave channels= out."
            )
        for node in everything(graph):
            if id(node.operation) in self._layers:
                raise EditError(
                    f"reinput: {node.kind} {node.operation.name!r} still reads the old number of "
                    f"channels from {node.home.label(node.inputs[0])!r}, and the same layer is "
                    "called elsewhere with the new one. Change all inputs that reach it, by name: "
                    "shape={...}."
                )
        return graph

    def _level(self, graph: Graph, specs: Specs, path: tuple[str, ...]) -> Graph:
        """Return a graph, of the outermost model or a nested one, with other input specs."""
        inputs = [
            value if value.spec == spec else value.replace(spec=spec, origin=None)
            for value, spec in zip(graph.inputs, specs, strict=True)
        ]
        if all(new.spec == old.spec for new, old in zip(inputs, graph.inputs, strict=True)):
            return graph
        known = {v.within(None): v.spec and v.spec.shape for v in graph.inputs}
        at: list[tuple[Graph, Node]] = []

        def fit(graph: Graph, node: Node, inputs: Sequence[Value]) -> Node:
            fitted = self._fit(graph, node, inputs, path)
            at[:] = [(graph, node)]
            return fitted

        result = graph.replace(inputs=inputs)
        try:
            result = infer(result, fit, run=False, way_out=lambda *_: "")
            # Calls that read nothing new must call the same new model as the other calls.
            while left := [n for n in result.steps if id(n.operation) in self._wanted]:
                instead = {n: [self._nested(n, n.inputs, path)] for n in left}
                result = infer(result.spliced(instead, {}), fit, run=False, way_out=lambda *_: "")
        except BuildError as error:
            raise EditError(self._refusal(*at[0], str(error), path)) from error
        # Masks may have been made again, and the names of the old models are free now.
        result = result.replace(nodes=pruned(result).steps).settled()
        try:
            failure = trial(result, before=known)
        except Impossible as error:
            kinds = [[v.spec and v.spec.dtype for v in level.inputs] for level in (graph, result)]
            if kinds[0] != kinds[1]:
                raise EditError(f"reinput: {words_of(error)}") from error
            failure = None  # such as text, which only TensorFlow has
        if failure is not None:
            raise EditError(self._refusal(result, failure.node, told(result, failure), path))
        return tried(result, [node for node in result.steps if node.untried is not None])

    def _fit(
        self, graph: Graph, node: Node, inputs: Sequence[Value], path: tuple[str, ...]
    ) -> Node:
        if node.nested is not None:
            fits = id(node.operation) not in self._wanted and self._entering(node, inputs) == [
                value.spec for value in own_graph(node).inputs
            ]
            return node if fits else self._nested(node, inputs, (*path, graph.label(node)))
        layer = node.operation
        if not isinstance(layer, keras.Layer):
            before, now = rows(node, node.inputs), rows(node, inputs)
            if before != now and None not in (before, now):
                raise EditError(self._refusal(graph, node, _mixes(graph, node, inputs, now), path))
            return node
        if not node.inputs or node.inputs[0].spec is None or inputs[0].spec is None:
            return node
        old, new = node.inputs[0].spec.shape, inputs[0].spec.shape
        axis = channel_axis(layer, len(new))
        if axis is None or (axis == len(new) - 1, old[axis], new[axis]) not in self._channels:
            return node
        verb = f"reinput to {new[axis]} channels"
        label = "/".join([*path, graph.label(node)])
        if self._rule is None:
            raise EditError(
                f"{verb}: {node.kind} {label!r} has weights for {old[axis]}. Say what becomes of "
                f"them: channels={' or channels='.join(map(repr, RULES))}, or a function of the "
                "kernel and the new number of channels."
            )
        made = self._layers.get(id(layer))
        if made is None:
            made = self._layers[id(layer)] = (
                layer,
                with_channels(layer, new, self._rule, verb),
                new[axis],
            )
        if made[2] != new[axis]:
            raise EditError(
                f"{verb}: {node.kind} {label!r} is called elsewhere with {made[2]} channels, and it "
                "has one kernel. Give all inputs that reach it the same number."
            )
        return node.replace(operation=made[1])

    def _entering(self, node: Node, inputs: Sequence[Value]) -> list[Spec | None]:
        """Return the input specs that a nested model needs for a call, changed only as needed."""
        reads = [*inputs, *node.reads[len(inputs) :]]
        result = []
        for value, entry in zip(own_graph(node).inputs, node.entries, strict=False):
            spec = value.spec
            if spec is not None and entry.source is not None:
                old, new = node.reads[entry.source].spec, reads[entry.source].spec
                assert old is not None and new is not None
                rank = len(spec.shape)
                shape = tuple(
                    own if own is None or was == now else now
                    for own, was, now in zip(
                        spec.shape, _ranked(old.shape, rank), _ranked(new.shape, rank), strict=True
                    )
                )
                spec = Spec(shape, spec.dtype, spec.sparse, spec.ragged, spec.ragged_rank,
                            spec.row_splits_dtype)  # fmt: skip
            result.append(spec)
        return result

    def _nested(self, node: Node, inputs: Sequence[Value], path: tuple[str, ...]) -> Node:
        """Return the call with its nested model replaced by one with other inputs."""
        model, key = node.operation, id(node.operation)
        specs: Specs = tuple(self._entering(node, inputs))  # type: ignore[arg-type]
        before = self._wanted.get(key)
        if before is not None:
            specs = tuple(map(_both, before, specs))
            self._agreed = self._agreed and specs == before
        self._wanted[key] = specs
        if (key, specs) not in self._made:
            edited = self._level(own_graph(node), specs, path)
            self._made[key, specs] = build(edited, name=model.name), edited
        made, nested = self._made[key, specs]
        outputs = tuple(value.with_spec(None) for value in node.outputs)
        return node.replace(operation=made, nested=nested, outputs=outputs)

    def _refusal(self, graph: Graph, node: Node, told: str, path: tuple[str, ...]) -> str:
        """Return the message: what does not fit, and the ways out."""
        node = graph.node(node)
        label = "/".join([*path, node.label])
        text = f"reinput: {told}\nThe way out: "
        others = any(
            old.spec is not None and old.spec.shape[:-1] != new.shape[:-1]
            for old, new in zip(self._graph.inputs, self._specs, strict=True)
        )
        changes = [] if others else [old for last, old, _ in self._channels if last]
        if changes and not path and node.inputs and graph.producer(node.inputs[0]) is None:
            old = changes[0]
            text += f"put a model in front that gives the old {old} channels: kg.join(front, model); or "
        before = node
        source = None
        while before.inputs and (producer := graph.producer(before.inputs[0])) is not None:
            if producer.kind not in _SHAPES:
                break
            before, source = producer, producer.inputs[0]
        if source is not None:
            value = "/".join([*path, graph.label(source)])
            rank = 0 if source.spec is None else len(source.spec.shape)
            head = f", such as GlobalAveragePooling{rank - 2}D" if 3 <= rank <= 5 else ""
            text += (
                f"take the part before {graph.label(before)!r}, {advice.call('submodel', outputs=value)}, and "
                f"put a head on it that takes any size{head}; or first replace "
                f"{graph.label(before)!r} by a layer that gives {label!r} the old shape from any size: "
                + _replaced("/".join([*path, graph.label(before)]))
            )
            return text
        return f"{text}first replace it by one that fits: {_replaced(label)}"


def _replaced(label: str) -> str:
    return advice.call("replace", ("target", label), ("new", advice.As("..."))) + "."


def _ranked(shape: _Shape, rank: int) -> _Shape:
    """Return a shape as a model of this rank takes it: Keras adds or drops a last axis of 1."""
    if len(shape) == rank + 1:
        return shape[:-1]
    return (*shape, 1) if len(shape) == rank - 1 else shape


def _both(one: Spec, other: Spec) -> Spec:
    """Return the spec that accepts both: dimensions that differ become free."""
    shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
    return Spec(shape, one.dtype, one.sparse, one.ragged, one.ragged_rank, one.row_splits_dtype)


def _mixes(graph: Graph, node: Node, inputs: Sequence[Value], rows: int | None) -> str:
    old, new = node.inputs[0], inputs[0]
    return (
        f"{node.kind} {graph.label(graph.node(node))!r} in graph {graph.name!r} would mix samples: "
        f"expected {old.spec} from {graph.label(old)!r}, found {new.spec}. It would return "
        f"{rows} rows for 2 samples."
    )
