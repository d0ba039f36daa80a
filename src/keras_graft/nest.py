"""Nested models: opening them in place."""

from __future__ import annotations

from collections.abc import Sequence

from keras_graft.graph import Graph, Node, Slot, Template, Value


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
        operation = scoped.scope[0].operation
        for call in graph.calls(operation):
            graph, inner = inline_call(graph, call)
            for i, value in enumerate(values):
                if value.scope and value.scope[0].key is call.key:
                    rest = (
                        tuple(inner_node(inner, node) for node in value.scope[1:2])
                        + value.scope[2:]
                    )
                    values[i] = (
                        Value(
                            value.spec, value.name, value.optional, value.mask, value.origin,
                            value.key, value.graph, rest,
                        )
                        if rest
                        else inner[value.key]
                    )  # fmt: skip


def inner_node(inner: dict[object, Value], node: Node) -> Node:
    """Return the copy that inlining made of a nested node."""
    home = inner[node.outputs[0].key].graph
    assert home is not None
    found = home.producer(inner[node.outputs[0].key])
    assert found is not None
    return found


def inline_call(graph: Graph, call: Node) -> tuple[Graph, dict[object, Value]]:
    """Put the nodes of one nested call in its place.

    Returns:
        The graph, and for each value of the nested graph the one that took its place.
    """
    nested = call.nested
    assert nested is not None
    nodes: list[Node] = []
    mapping: dict[Value, Value] = {}
    for value, entry in zip(nested.inputs, call.entries, strict=True):
        if entry.source is None:
            continue
        source = call.inputs[entry.source]
        for step in entry.adapt:
            fresh = Value(step.outputs[0].spec, step.outputs[0].name)
            nodes.append(Node(step.operation, step.template, (source,), (fresh,)))
            source = fresh
        mapping[Value(key=value.key)] = source
    for node in nested.nodes:
        made = node.reading(mapping)
        outputs = tuple(Value(v.spec, v.name, mask=v.mask, origin=v.origin) for v in node.outputs)
        template = made.template
        if call.training is not None and node.trains:
            # The flag of the call reaches every layer inside, over what was recorded there.
            template = Template(
                template.args, {**template.kwargs, "training": call.training}
            )  # fmt: skip
        made = Node(
            made.operation, template, made.inputs, outputs, made.hidden, made.nested,
            made.entries, made.training, made.trains,
        )  # fmt: skip
        nodes.append(made)
        mapping.update(
            (Value(key=old.key), new) for old, new in zip(node.outputs, outputs, strict=True)
        )
    gives = {
        Value(key=old.key): mapping[Value(key=inner.key)]
        for old, inner in zip(call.outputs, nested.outputs, strict=True)
    }
    result: list[Node] = []
    for node in graph.nodes:
        if node.key is call.key:
            result.extend(nodes)
        else:
            result.append(node.reading(gives))
    graph = graph.replace(
        nodes=tuple(result), outputs=tuple(gives.get(v, v) for v in graph.outputs)
    )
    return graph, {old.key: graph.value(new) for old, new in mapping.items()}


def flat_slots(count: int) -> list[Slot]:
    """Return a list structure of `count` leaves."""
    return [Slot(i) for i in range(count)]
