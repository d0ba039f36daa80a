"""What depends on what: the walks over a graph that the verbs are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.order import sort


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


def lacking(
    graph: Graph,
    missing: Sequence[Value],
    given: Collection[Value],
    before: Collection[Node] | None = None,
) -> list[Value]:
    """Return which of some missing values are needed: the others can be computed from them.

    What is computed from what is given and from other missing values alone needs no place at the
    boundary. That is one pass over the nodes between: what lacks something marks what reads it.

    Args:
        graph: The graph.
        missing: Values that are used behind a boundary and are not given there.
        given: The values of the boundary.
        before: The nodes that run before the boundary. A layer runs once, so what these and the
            missing values need is not computed again behind it; a stateless op may be. None if
            nothing runs before it.
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
        running = [node]  # it has to be given, so it and what it needs run before
        while running:
            node = running.pop()
            if node not in ran:
                ran.add(node)
                if not is_op(node):
                    lose(node)
                running += [n for n in map(graph.producer, node.reads) if n is not None]
    return [v for v, maker in zip(missing, makers, strict=True) if maker is None or maker in lost]


def is_op(node: Node) -> bool:
    """Whether a node calls one of Keras's ops, which holds nothing and always does the same."""
    operation = node.operation
    keras_own = type(operation).__module__.partition(".")[0] == "keras"
    return keras_own and not hasattr(operation, "weights") and not hasattr(operation, "operations")


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
