"""How many blocks lie between a weight and the end of its network, for layer-wise decay."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.edit.inline import inline
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.training.named import Weights, behind


def blocks_after(weights: Weights) -> dict[int, int]:
    """Return the number of blocks behind each weight, by the weight's identity.

    A block ends at a node through which everything passes that was computed with a weight before
    it: after a residual block, a transformer layer, a layer of a chain. What has no matrix or
    kernel, such as a normalization, counts with the block before it. The last block has the
    number 0. A layer that is called in several blocks, and a tied weight, count with the one
    that is nearest to the inputs.
    """
    graph = inline(weights.graph)
    nodes, before = _with_weights(graph)
    number: dict[int, int] = {}
    blocks: list[list[Node]] = []
    seen = 0  # the nodes of all blocks so far, as bits
    for place in _ends(graph, nodes, before):
        here = before[place] | 1 << place
        blocks.append([n for i, n in enumerate(nodes) if (here & ~seen) >> i & 1])
        seen |= here
    rest = [n for i, n in enumerate(nodes) if not seen >> i & 1]
    blocks += [rest] if rest else []
    level = len(_merged(blocks))
    for block in _merged(blocks):
        level -= 1
        for node in block:
            for variable in _weights_of(node):
                number.setdefault(
                    behind(variable), level
                )  # the first block is the nearest to inputs
    deepest = max(number.values(), default=0)
    return {key: number.get(key, deepest) for key in weights.by_id}


def _weights_of(node: Node) -> list[Any]:
    layer = unwrapped(node.operation)
    return list(layer.weights) if isinstance(layer, keras.Layer) else []


def _with_weights(graph: Graph) -> tuple[list[Node], list[int]]:
    """Return the nodes that have weights or follow one that has, and those before each, as bits."""
    nodes: list[Node] = []
    before: list[int] = []
    place: dict[Node, int] = {}
    for node in graph.steps:
        found = 0
        for value in node.reads:
            producer = graph.producer(value)
            if producer is not None and producer in place:
                found |= before[place[producer]] | 1 << place[producer]
        if found or _weights_of(node):
            place[node] = len(nodes)
            nodes.append(node)
            before.append(found)
    return nodes, before


def _ends(graph: Graph, nodes: list[Node], before: list[int]) -> list[int]:
    """Return the places of the nodes through which everything before them passes."""
    place = {node: i for i, node in enumerate(nodes)}
    after = [0] * len(nodes)
    reach = [0] * len(nodes)  # the nodes that read a node's values
    outputs = {graph.producer(value) for value in graph.outputs}
    for i, node in enumerate(nodes):
        for value in node.reads:
            producer = graph.producer(value)
            if producer is not None and producer in place:
                reach[place[producer]] |= 1 << i
    for i in reversed(range(len(nodes))):
        for j in _bits(reach[i]):
            after[i] |= after[j] | 1 << j
    given = sum(1 << i for i, node in enumerate(nodes) if node in outputs)
    whole = (1 << len(nodes)) - 1
    ends = []
    for i in range(len(nodes)):
        compares = before[i] | after[i] | 1 << i == whole
        if compares and not before[i] & given:
            readers = 0
            for j in _bits(before[i]):
                readers |= reach[j]
            if not readers & after[i]:
                ends.append(i)
    return ends


def _bits(number: int) -> list[int]:
    return [i for i in range(number.bit_length()) if number >> i & 1]


def _merged(blocks: list[list[Node]]) -> list[list[Node]]:
    """Return the blocks that have a kernel, each with the blocks without one behind it."""
    result: list[list[Node]] = []
    for block in blocks:
        if result and not (_kernels(block) and _kernels(result[-1])):
            result[-1] += block
        else:
            result.append(list(block))
    return result


def _kernels(block: list[Node]) -> bool:
    return any(len(v.shape) > 1 for node in block for v in _weights_of(node))
