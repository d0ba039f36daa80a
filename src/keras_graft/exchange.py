"""Other operations in the places of some: the calls stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keras_graft.depth import Place, at_depth
from keras_graft.graph import Graph
from keras_graft.node import Node
from keras_graft.select import everything


def exchanged(graph: Graph, nodes: Iterable[Node], new: Callable[[Node], Any]) -> Graph:
    """Return the graph with other operations, of the same specs, at the places of some.

    Args:
        graph: The graph.
        nodes: The places, at any depth.
        new: Gives the operation that is to be called there.
    """

    def edit(level: Graph, places: list[Place]) -> Graph:
        instead = {}
        for (node,) in places:
            assert isinstance(node, Node)
            here = level.node(node)
            instead[here] = [here.replace(operation=new(here))]
        result = level.spliced(instead, {})
        return result.settled() if level.stale == () else result  # no spec has changed

    return at_depth(graph, [(node,) for node in nodes], edit)


def calls_of(graph: Graph, operations: Iterable[Any]) -> list[Node]:
    """Return all calls of operations, at every depth."""
    wanted = {id(operation) for operation in operations}
    return [node for node in everything(graph) if id(node.operation) in wanted]
