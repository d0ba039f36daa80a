"""Open, in a graph, the calls that no rule counts, and fit nested models to how they are called."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.costs.find import rule_of
from keras_graft.costs.formula import Unknown
from keras_graft.errors import GraftError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value, flat_slots
from keras_graft.graph.record import is_wrapper
from keras_graft.model.entering import entering_spec
from keras_graft.model.infer import infer
from keras_graft.model.opening.inside import Opener
from keras_graft.model.read import opener, read, trace

_COUNTED = "a rule counts it"


class _Uncounted:
    """The policy of what is opened: a layer without a rule."""

    def at(self, layer: Any, path: tuple[str, ...]) -> str | None:
        """Return why a layer stays closed; None if it is opened."""
        return None if may_open(layer) else _COUNTED


def may_open(operation: Any) -> bool:
    """Whether an operation is a layer with code, which no rule counts."""
    if not isinstance(operation, keras.Layer) or is_wrapper(operation):
        return False
    return rule_of(operation) is None and _keras.functional(operation) is None


def opened(graph: Graph, batch: int) -> Graph:
    """Return the graph with the calls open that no rule counts; the others say why they are not.

    Where all lengths are known, code is tried with this batch: some needs numbers.

    The graph is not proven to be what the code computes: it only says which calls there are.
    """

    def called(spec: Spec | None) -> Spec | None:
        if spec is None or None in spec.shape[1:] or spec.shape[:1] != (None,):
            return spec
        return dataclasses.replace(spec, shape=(batch, *spec.shape[1:]))

    return _opened(graph, opener(_Uncounted(), may_open, called), {})


def _opened(graph: Graph, found: Opener, done: dict[Any, Node]) -> Graph:
    """Open the calls of a graph; of several that compute the same, one."""
    instead = {}
    for node in graph.steps:
        if node.nested is not None:
            inner = _opened(node.nested, found, done)
            new = node if inner is node.nested else node.replace(nested=inner)
        elif may_open(node.operation):
            key = _form(node.operation), tuple(v.spec for v in node.reads), repr(node.template)
            if key not in done:
                done[key] = found.call(graph, node)
            one = done[key]
            new = node.replace(nested=one.nested, entries=one.entries, closed=one.closed)
        else:
            continue
        if new is not node:
            instead[node.key] = new
    return graph.holding(instead) if instead else graph


def _form(layer: Any) -> Any:
    """Return what is equal for two layers that compute the same, but for the values of weights."""
    # Keras puts wrappers of methods among the attributes: `build`.
    own = [(k, v) for k, v in vars(layer).items() if k != "name" and not k.startswith("_")]
    plain = tuple((k, _plain(v)) for k, v in own if not callable(getattr(type(layer), k, None)))
    shapes = tuple(tuple(weight.shape) for weight in layer.weights)
    return type(layer), plain, shapes, tuple(map(_form, _keras.sublayers(layer)))


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_plain, value))
    if not callable(value) or isinstance(value, keras.Layer):
        return type(value)
    of_keras = str(getattr(value, "__module__", "")).startswith("keras.")
    return getattr(value, "__qualname__", type(value)) if of_keras else id(value)


def alone(layer: Any, inputs: Sequence[Sequence[int]], dtype: str, batch: int) -> Graph:
    """Return a graph that calls a layer once, on tensors of these shapes; it is open.

    Raises:
        Unknown: If there is no such graph; the message is the reason.
    """
    functional = _keras.functional(layer)
    specs = [Spec((None, *shape[1:]), dtype) for shape in inputs]
    if functional is not None:
        graph = read(layer)
        own = [value.spec for value in graph.inputs]
        wanted = tuple(
            spec if mine is None else dataclasses.replace(mine, shape=spec.shape)
            for spec, mine in zip(specs, own, strict=True)
        )
        return opened(fitted(_with_inputs(graph, wanted)), batch)
    values = [Value(spec, f"x{i}") for i, spec in enumerate(specs)]
    states = getattr(layer, "state_size", None)
    try:
        if states is None:
            traced = trace(layer, values)
        else:  # the cell of a recurrent layer takes its states too
            sizes = states if isinstance(states, list | tuple) else [states]
            values += [
                Value(Spec((None, size), dtype), f"state{i}") for i, size in enumerate(sizes)
            ]
            traced = trace(lambda x, *given: layer(x, list(given)), values)
    except Exception as error:
        raise Unknown(f"{layer.name!r} cannot be called on {specs[0]}") from error
    made = Graph(traced.steps, values, traced.outputs, flat_slots(len(values)), flat_slots(
        len(traced.outputs)
    ), layer.name).settled()  # fmt: skip
    graph = opened(made, batch)
    for node in graph.steps:
        if node.nested is None and may_open(node.operation):
            raise Unknown(node.closed or f"there is no rule for {node.kind}")
    return graph


def fitted(graph: Graph, done: MutableMapping[Any, Graph] | None = None) -> Graph:
    """Return the graph with the graphs of nested models for the shapes that they are called with.

    A nested model may leave lengths open that the model around it knows.
    """
    done = {} if done is None else done
    instead = {}
    for node in graph.steps:
        if node.nested is None:
            continue
        specs = tuple(_entering(node, i, v) for i, v in enumerate(node.nested.inputs))
        key = id(node.nested), specs
        if key not in done:
            done[key] = fitted(_with_inputs(node.nested, specs), done)
        if done[key] is not node.nested:
            instead[node.key] = node.replace(nested=done[key])
    return graph.holding(instead) if instead else graph


def _entering(node: Node, place: int, value: Value) -> Spec | None:
    """Return the spec of a nested input, with the lengths that only the call knows."""
    entry = node.entries[place] if place < len(node.entries) else None
    given = None if entry is None else entering_spec(node, entry)
    own = value.spec
    if given is None or own is None or len(given.shape) != len(own.shape):
        return own
    shape = tuple(
        g if mine is None and i else mine
        for i, (mine, g) in enumerate(zip(own.shape, given.shape, strict=True))
    )
    return own if shape == own.shape else dataclasses.replace(own, shape=shape)


def _with_inputs(graph: Graph, specs: tuple[Spec | None, ...]) -> Graph:
    if all(v.spec == spec for v, spec in zip(graph.inputs, specs, strict=True)):
        return graph
    inputs = [v.with_spec(spec).within(None) for v, spec in zip(graph.inputs, specs, strict=True)]
    try:
        return infer(graph.replace(inputs=inputs), run=False)
    except GraftError:
        return graph  # its lengths stay open
