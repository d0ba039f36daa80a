"""What depends on what: the walks over a graph that the verbs are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from keras_graft.graph import Graph, sort
from keras_graft.node import Node, Value


def needed(graph: Graph, outputs: Iterable[Value], stop: Collection[Value] = ()) -> list[Node]:
    """Return the nodes that `outputs` need when everything in `stop` is given, in order."""
    stop = set(stop)
    found: set[Node] = set()
    seen: set[Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in seen or value in stop:
            continue
        seen.add(value)
        node = graph.producer(value)
        if node is not None and node not in found:
            found.add(node)
            stack.extend(node.reads)
    return sorted(found, key=graph.position)


def after(graph: Graph, values: Iterable[Value]) -> set[Node]:
    """Return the nodes that depend on any of `values`."""
    reached = set(values)
    found: set[Node] = set()
    for node in graph.steps:
        if any(v in reached for v in node.reads):
            found.add(node)
            reached.update(node.gives)
    return found


def crossing(
    graph: Graph, nodes: Sequence[Node], outputs: Sequence[Value], given: Collection[Value]
) -> list[Value]:
    """Return what `nodes` and `outputs` use and neither make nor are given, in graph order."""
    made = {v for n in nodes for v in n.gives}
    wanted = [v for n in nodes for v in n.reads] + list(outputs)
    missing = {v for v in wanted if v not in made and v not in given}
    rank = {v: i for i, v in enumerate(graph.inputs)}

    def order(value: Value) -> tuple[bool, tuple[int, ...], int]:
        node = graph.producer(value)
        if node is None:
            return False, (), rank[value]
        return True, graph.position(node), node.gives.index(value)

    return [graph.value(v) for v in sorted(missing, key=order)]


def pruned(graph: Graph) -> Graph:
    """Return the graph without the nodes that no output needs."""
    nodes = needed(graph, graph.outputs)
    return graph if len(nodes) == len(graph.steps) else graph.replace(nodes=nodes)


def swept(graph: Graph, values: Iterable[Value]) -> Graph:
    """Return the graph without the nodes that only served values that are used no more.

    Unlike `pruned` it looks at what is behind the values alone.
    """
    gone: dict[Node, list[Node]] = {}
    outputs = set(graph.outputs)
    stack = [v for v in values if v in graph]
    while stack:
        node = graph.producer(stack.pop())
        if node is None or node in gone:
            continue
        users = [n for v in node.gives for n in graph.consumers(v)]
        if any(n not in gone for n in users) or any(v in outputs for v in node.outputs):
            continue
        gone[node] = []
        stack.extend(node.reads)
    return graph.spliced(gone, {}) if gone else graph


def in_order(graph: Graph, changed: Mapping[Node, Sequence[Node]]) -> Graph:
    """Return the graph with its nodes in an order in which they can run.

    Only `changed` is looked at: a new node may read a value that comes later than its place.

    Raises:
        GraphError: If they close a cycle; the message shows its path.
    """
    for nodes in changed.values():
        for node in nodes:
            for value in node.reads:
                producer = graph.producer(value) if value in graph else None
                if producer is not None and graph.position(producer) >= graph.position(node):
                    return graph.replace(nodes=sort(graph.steps, graph.inputs))
    return graph


def read_places(node: Node) -> list[int]:
    """Return which inputs of a node are what it works on, without the masks of the others."""
    masks = {value.mask for value in node.inputs if value.mask is not None}
    return [i for i, value in enumerate(node.inputs) if value not in masks]
