"""Nested models: opening them in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_graft.graph import Graph
from keras_graft.node import Node, Template, Value, copied


def open_for(graph: Graph, values: Sequence[Value]) -> tuple[Graph, list[Value]]:
    """Inline the nested models that `values` lie in; return the graph and the values in it.

    All calls of such a model are opened, not only the one asked for: Keras cannot load a file in
    which a layer stands both inside a nested model and beside it.
    """
    values = list(values)
    while True:
        scoped = next((v for v in values if v.scope), None)
        if scoped is None:
            return graph, [graph.value(v) for v in values]
        graph, moved = inline(graph, graph.calls(scoped.scope[0].operation))
        values = [_outward(graph, value, moved) for value in values]


def inline(graph: Graph, calls: Sequence[Node]) -> tuple[Graph, dict[Any, dict[Value, Value]]]:
    """Put the nodes of nested models in the places of their calls.

    Returns:
        The graph, and for the key of each call the value that took the place of each value of
        the nested graph.
    """
    opened = {call: _open(call) for call in calls}
    gives: dict[Value, Value] = {}
    moved: dict[Any, dict[Value, Value]] = {}
    for call, (_, inner) in opened.items():
        assert call.nested is not None
        for old, value in zip(call.outputs, call.nested.outputs, strict=True):
            gives[old] = inner[value.within(None)]
        moved[call.key] = inner
    for old in gives:  # a nested model may hand on what another one gave
        while gives[old] in gives:
            gives[old] = gives[gives[old]]
    nodes = {call: [n.reading(gives) for n in new] for call, (new, _) in opened.items()}
    return graph.spliced(nodes, gives), moved


def _open(call: Node) -> tuple[list[Node], dict[Value, Value]]:
    """Return the nodes inside one call, in terms of what the call reads."""
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
        # The flag of the call reaches every layer inside, over what was recorded there.
        if call.training is None or not node.trains:
            return node
        kwargs = {**node.template.kwargs, "training": call.training}
        return node.replace(template=Template(node.template.args, kwargs))

    nodes, inner = copied(nested.steps, mapping, under_flag)
    return before + nodes, inner


def _outward(graph: Graph, value: Value, moved: dict[Any, dict[Value, Value]]) -> Value:
    """Return what took the place of a value, one nested level less deep."""
    if not value.scope or value.scope[0].key not in moved:
        return value
    inner = moved[value.scope[0].key]
    if len(value.scope) == 1:
        return inner[value.within(None)]
    # The model that it still lies in was copied along: a node is found by what it gives.
    outer = graph.producer(inner[value.scope[1].outputs[0]])
    assert outer is not None
    return value.within(value.graph, (outer.within(graph), *value.scope[2:]))
