"""Which nodes and values depend on which: the searches in a graph that the verbs use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.order import sort


def needed(graph: Graph, outputs: Iterable[Value], stop: Collection[Value] = ()) -> list[Node]:
    """Return the nodes that `outputs` need if the values in `stop` are given, in order."""
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
    """Return the values that `nodes` and `outputs` use but neither make nor get, in graph order."""
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


def lacking(
    graph: Graph,
    missing: Sequence[Value],
    given: Collection[Value],
    before: Collection[Node] | None = None,
) -> list[Value]:
    """Return which of some missing values must be given: the rest can be computed from them.

    A value that is computed only from given values and other missing ones need not be given. One
    pass over the nodes between finds this: a node that lacks a value marks the nodes that read it.

    Args:
        graph: The graph.
        missing: Values that are used after a boundary and are not given there.
        given: The values of the boundary.
        before: The nodes that run before the boundary. A layer runs once: one that these nodes or
            the missing values need is not computed again after the boundary; a stateless op may
            be. None if nothing runs before the boundary.
    """
    known = {*given, *missing}
    makers = [graph.producer(value) for value in missing]
    between = {node for node in makers if node is not None}
    between |= set(needed(graph, [v for node in between for v in node.reads], known))
    readers: dict[Node, list[Node]] = {}
    lost: set[Node] = set()
    ran = set(before or ())
    stack: list[Node] = []

    def lose(node: Node) -> None:
        if node in between and node not in lost:
            lost.add(node)
            stack.append(node)

    for node in between:
        if node in ran and not is_op(node):
            lose(node)
        for value in node.reads:
            maker = None if value in known else graph.producer(value)
            if maker is not None:
                readers.setdefault(maker, []).append(node)
            elif value not in known:
                lose(node)  # it reads an input of the graph that is not given
    wanted = set(missing)
    while stack:
        node = stack.pop()
        for reader in readers.get(node, ()):
            lose(reader)
        if before is None or wanted.isdisjoint(node.gives):
            continue
        running = [node]  # it must be given, so it and what it needs run before
        while running:
            node = running.pop()
            if node not in ran:
                ran.add(node)
                if not is_op(node):
                    lose(node)
                running += [n for n in map(graph.producer, node.reads) if n is not None]
    return [v for v, maker in zip(missing, makers, strict=True) if maker is None or maker in lost]


def is_op(node: Node) -> bool:
    """Whether a node calls an op of Keras, which has no state and always does the same."""
    operation = node.operation
    # Those of this package too: `DynamicOp`, `Operator`.
    keras_own = type(operation).__module__.partition(".")[0] in ("keras", "keras_graft")
    return keras_own and not hasattr(operation, "weights") and not hasattr(operation, "operations")


def pruned(graph: Graph) -> Graph:
    """Return the graph without the nodes that no output needs."""
    nodes = needed(graph, graph.outputs)
    return graph if len(nodes) == len(graph.steps) else graph.replace(nodes=nodes)


def swept(graph: Graph, values: Iterable[Value]) -> Graph:
    """Return the graph without the nodes that were needed only for values no longer used.

    Unlike `pruned`, it looks only at the nodes that these values are computed by.
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

    Only `changed` is checked: a new node may read a value that is given later.

    Raises:
        GraphError: If there is a cycle; the message shows its path.
    """
    for nodes in changed.values():
        for node in nodes:
            for value in node.reads:
                producer = graph.producer(value) if value in graph else None
                if producer is not None and graph.position(producer) >= graph.position(node):
                    return graph.replace(nodes=sort(graph.steps, graph.inputs))
    return graph


def read_places(node: Node) -> list[int]:
    """Return the indices of a node's inputs, without those that are masks of other inputs."""
    masks = {value.mask for value in node.inputs if value.mask is not None}
    return [i for i, value in enumerate(node.inputs) if value not in masks]
