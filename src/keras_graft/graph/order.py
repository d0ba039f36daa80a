"""Topological sort: an order in which nodes can run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keras_graft.errors import GraphError
from keras_graft.graph.node import Node, Value
from keras_graft.printable import printable


def sort(nodes: Iterable[Node], inputs: Sequence[Value] = ()) -> tuple[Node, ...]:
    """Return `nodes` in an order in which they can run; the given order stays where possible.

    Raises:
        GraphError: If there is a cycle; the message shows its path.
    """
    nodes = tuple(nodes)
    cut = {v.within(None) for v in inputs}
    giver = {v: node for node in nodes for v in node.gives if v not in cut}
    done: set[Node] = set()
    open_: dict[Node, None] = {}
    result: list[Node] = []
    for root in nodes:
        stack = [] if root in done else [(root, iter(root.reads))]
        if stack:
            open_[root] = None
        while stack:
            node, reads = stack[-1]
            for value in reads:
                before = giver.get(value)
                if before is None or before in done:
                    continue
                if before in open_:
                    names = [n.operation.name for n in open_]
                    cycle = names[list(open_).index(before) :] + [before.operation.name]
                    raise GraphError(
                        "The graph has a cycle: " + " <- ".join(map(printable, cycle)) + "."
                    )
                open_[before] = None
                stack.append((before, iter(before.reads)))
                break
            else:
                stack.pop()
                del open_[node]
                done.add(node)
                result.append(node)
    return tuple(result)
