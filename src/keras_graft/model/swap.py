"""Swap the operations of some nodes and keep how they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.select import everything
from keras_graft.model.nested import Place, at_depth


def exchanged(
    graph: Graph, nodes: Iterable[Node], new: Callable[[Node], Any], alike: bool = True
) -> Graph:
    """Return the graph with new operations for some nodes.

    Args:
        graph: The graph.
        nodes: The nodes, at any depth.
        new: Returns the new operation for a node.
        alike: Whether the specs are known to stay the same; if not, the new operations are called.
    """

    def edit(level: Graph, places: list[Place]) -> Graph:
        instead = {}
        settled = level.stale == ()
        for (node,) in places:
            assert isinstance(node, Node)
            here = level.node(node)
            if alike and here.nested is None:
                instead[here] = [here.replace(operation=new(here))]
            else:
                again = called_anew(here, new(here))
                instead[here] = [again if alike else again.replace(untried=())]
                settled = False
        result = level.spliced(instead, {})
        return result.settled() if settled else result

    return at_depth(graph, [(node,) for node in nodes], edit)


def called_anew(node: Node, operation: Any) -> Node:
    """Return a call with another operation; its nested graph and output specs are not known yet."""
    outputs = tuple(value.with_spec(None) for value in node.outputs)
    return node.replace(operation=operation, nested=None, entries=(), outputs=outputs)


def calls_of(graph: Graph, operations: Iterable[Any]) -> list[Node]:
    """Return all calls of operations, at every depth."""
    wanted = {id(operation) for operation in operations}
    return [node for node in everything(graph) if id(node.operation) in wanted]
