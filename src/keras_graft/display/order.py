"""An order of the nodes in which the nodes of a block stand together."""

from __future__ import annotations

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node


def deepest_first(graph: Graph) -> list[Node]:
    """Return the nodes, each after what it reads, and as close before what reads it as possible.

    The walk goes from the outputs to the inputs and follows the deepest input first (depth-first
    search, in postorder, as Tarjan's 1976 "Edge-disjoint spanning trees and depth-first search"
    numbers nodes). So what a block reads from far back is emitted before the block, and equal
    blocks are emitted in equal orders.
    """
    reads: dict[Node, list[Node]] = {}
    depth: dict[Node, int] = {}
    for node in graph.steps:
        found = dict.fromkeys(graph.producer(v) for v in node.reads)
        reads[node] = [n for n in found if n is not None]
        depth[node] = 1 + max((depth.get(n, 0) for n in reads[node]), default=0)
    for given in reads.values():
        if len(given) > 1:
            given.sort(key=lambda n: -depth.get(n, 0))  # a stable sort: the order of the inputs
    ends = [graph.producer(v) for v in graph.outputs]
    roots = sorted((n for n in ends if n is not None), key=lambda n: -depth[n])
    done: dict[Node, None] = {}
    entered: set[Node] = set()
    for root in (*roots, *graph.steps):
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
            elif node in entered:
                done[stack.pop()] = None
            else:
                entered.add(node)
                stack += [n for n in reversed(reads[node]) if n not in entered]
    return list(done)
