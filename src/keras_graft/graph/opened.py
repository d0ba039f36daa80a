"""Inline nested models: put the nodes inside a model in the place of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_graft.errors import EditError
from keras_graft.graph.copies import copied
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Template, Value


def closed_maker(graph: Graph, values: Iterable[Value]) -> Node | None:
    """Return a closed nested model with a mask inside it that one of the values depends on."""
    makers = {mask: node for node in graph.steps for mask, _ in node.unseen}
    seen: set[Node] = set()
    stack = list(values) if makers else []
    while stack:
        value = stack.pop()
        if value in makers:
            return makers[value]
        node = graph.producer(value)
        if node is None or node in seen:
            continue
        seen.add(node)
        # A mask that Keras attaches to an input need not be read from outside.
        beside = {v.mask for v in node.inputs}
        stack += [v for v in node.inputs if v not in makers or v not in beside]
    return None


class Opened:
    """A graph with some of its nested models inlined, and the old paths of its values.

    Attributes:
        graph: The current graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = self._donor = graph
        self._paths: dict[Any, str] = {}  # of nodes and values that came from inside

    def find(self, values: Iterable[Value]) -> list[Value]:
        """Open the nested models that contain the values; return the values in the new graph.

        All calls of such a model are opened, not only one: Keras cannot load a file in which a
        layer is both inside and outside a nested model.
        """
        values = list(values)
        while True:
            scoped = next((v for v in values if v.scope), None)
            if scoped is not None:
                values = self.open(self.graph.calls(scoped.scope[0].operation), values)
                continue
            maker = closed_maker(self.graph, values)
            if maker is None:
                return [self.graph.value(v) for v in values]
            values = self.open(self.graph.calls(maker.operation), values)

    def open(self, calls: Sequence[Node], values: Iterable[Value] = ()) -> list[Value]:
        """Open these calls; return what replaced `values`."""
        before = self.graph
        self.graph, moved = inline(before, calls)
        for call in calls:
            self._name(before, call, moved[call.key])
        gives = {v: moved[call.key][v] for call in calls for v in call.gives}
        return [_outward(self.graph, value, moved, gives) for value in values]

    def path(self, value: Value) -> str:
        """Return the path that a value had before any model was opened."""
        if value.key in self._paths:
            return self._paths[value.key]
        return (self._donor if value in self._donor else self.graph).label(value)

    def _name(self, before: Graph, call: Node, inner: Mapping[Value, Value]) -> None:
        prefix = self._paths.get(call.key) or before.label(call)
        nested = call.nested
        assert nested is not None
        for old in nested.all_values():
            if old in inner and inner[old] not in before:
                self._paths.setdefault(inner[old].key, f"{prefix}/{nested.label(old)}")
        for node in nested.steps:
            if node.nested is not None:
                copy = self.graph.producer(inner[node.outputs[0]])
                assert copy is not None
                self._paths[copy.key] = f"{prefix}/{nested.label(node)}"


def inline(graph: Graph, calls: Sequence[Node]) -> tuple[Graph, dict[Any, dict[Value, Value]]]:
    """Replace calls of nested models by the nodes inside the models.

    Returns:
        The graph, and for the key of each call a mapping to the new values from those of the
        nested graph and from those that the call gave.
    """
    opened = {call: _open(call) for call in calls}
    gives: dict[Value, Value] = {}
    for call, (_, inner) in opened.items():
        assert call.nested is not None
        for old, value in zip(call.outputs, call.nested.outputs, strict=True):
            gives[old] = inner[value.within(None)]
        gives.update((old, inner[mask.within(None)]) for old, mask in call.unseen)
    for old in gives:  # a nested model may output what another one gave
        while gives[old] in gives:
            gives[old] = gives[gives[old]]
    moved = {}
    for call, (_, inner) in opened.items():
        moved[call.key] = {old: gives.get(new, new) for old, new in inner.items()}
        moved[call.key].update((old, gives[old]) for old in call.gives)
    nodes = {call: [n.reading(gives) for n in new] for call, (new, _) in opened.items()}
    result = graph.spliced(nodes, gives)
    for call, (_, inner) in opened.items():
        _check_masks_stay(graph, call, inner)
    return result, moved


def _check_masks_stay(graph: Graph, call: Node, inner: Mapping[Value, Value]) -> None:
    """Refuse to open a model whose layers would then find another mask on a tensor.

    Keras attaches masks to tensors. A model that is called with `mask=` attaches that to its input:
    inside it replaces the one that the tensor has outside.
    """
    nested = call.nested
    assert nested is not None
    for value in nested.inputs:
        reads = [n for n in nested.steps if any(v == value for v, _ in n.hidden)]
        outer = inner.get(value.within(None))
        if outer is None or value.mask is None or not reads:
            continue
        given, known = inner.get(value.mask.within(None)), graph.known(outer).mask
        if given != known:
            attached = "none" if known is None else repr(graph.label(known))
            raise EditError(
                f"{graph.label(call)!r} cannot be opened: it is called with another mask for "
                f"{graph.label(outer)!r} than this has outside ({attached}), and "
                f"{nested.label(reads[0])!r} inside it finds that mask on the tensor. Leave this "
                "model closed, and name the others: kg.inline(model, [...])."
            )


def _open(call: Node) -> tuple[list[Node], dict[Value, Value]]:
    """Return copies of the nodes inside one call, which read what the call reads."""
    nested = call.nested
    assert nested is not None
    before: list[Node] = []
    mapping: dict[Value, Value] = {}
    for value, entry in zip(nested.inputs, call.entries, strict=True):
        if entry.source is None:
            continue
        source = call.reads[entry.source]
        for step in entry.adapt:
            made = Value(step.outputs[0].spec, step.outputs[0].name)
            before.append(Node(step.operation, step.template, (source,), (made,)))
            source = made
        mapping[value.within(None)] = source

    def under_flag(node: Node) -> Node:
        # Keras passes the flag of the call to every layer inside.
        if call.training is None or not node.trains:
            return node
        kwargs = {**node.template.kwargs, "training": node.flag(call.training)}
        return node.replace(template=Template(node.template.args, kwargs))

    nodes, inner = copied(nested.steps, mapping, under_flag)
    without = set(call.maskless)
    if without:  # what is inside does not find these masks either
        lost = [tuple(v for v in dict.fromkeys(n.inputs) if v in without) for n in nodes]
        nodes = [n.replace(maskless=n.maskless + v) for n, v in zip(nodes, lost, strict=True)]
    return before + nodes, inner


def _outward(
    graph: Graph,
    value: Value,
    moved: Mapping[Any, Mapping[Value, Value]],
    gives: Mapping[Value, Value],
) -> Value:
    """Return what replaced a value, one level of nesting further out."""
    if not value.scope:
        return gives.get(value.within(None), value)
    if value.scope[0].key not in moved:
        return value
    inner = moved[value.scope[0].key]
    if len(value.scope) == 1:
        return inner[value.within(None)]
    # The model that still contains it was copied too: it is found by its first output.
    outer = graph.producer(inner[value.scope[1].outputs[0]])
    assert outer is not None
    return value.within(value.graph, (outer.within(graph), *value.scope[2:]))
