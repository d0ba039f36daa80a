"""Repeated blocks of a network, found by their names: `layer_0`, `layer_1`, ..."""

from __future__ import annotations

import re

from keras_graft._keras import automatic_name, sublayers
from keras_graft.graph.node import Node
from keras_graft.look.numbers import Place, place_of
from keras_graft.look.wiring import Wiring

_NUMBER = re.compile(r"(.*?)([0-9]+)(?![0-9])", re.DOTALL)


def blocks(wiring: Wiring) -> list[list[Place]]:
    """Return the calls of each block, in the order in which the blocks end.

    A block is what has names that begin with the same number: the layer `layer_0`, the nested
    model `block_3`, the layers `block3_conv`, `block3_add`. There must be another block whose name
    begins alike, and a block has weights and is more than one plain layer. Names that Keras gave say nothing. So where no names
    tell, the calls of layers that hold other layers are the blocks, if a class has several.
    """
    found: dict[tuple[str, ...], list[Place]] = {}
    for place, node in wiring.nodes.items():
        key = _key(node)
        if key is not None:
            found.setdefault(key, []).append(place)
    found = {key: places for key, places in found.items() if _is_block(wiring, places)}
    stems: dict[tuple[str, ...], set[str]] = {}
    for *above, stem, number in found:
        stems.setdefault((*above, stem), set()).add(number)
    named = [places for key, places in found.items() if len(stems[key[:-1]]) > 1]
    chosen = named or _composites(wiring)
    order = {place: i for i, place in enumerate(wiring.nodes)}
    return sorted(chosen, key=lambda places: order[places[-1]])


def _key(node: Node) -> tuple[str, ...] | None:
    """Return the path to the first name with a number, split there."""
    above: list[str] = []
    for level in (*node.scope, node):
        match = _NUMBER.match(level.name)
        base = automatic_name(level.operation)
        if match and not re.fullmatch(re.escape(base) + r"(_[0-9]+)?", level.name):
            return (*above, match[1], match[2])
        above.append(level.label)
    return None


def _is_block(wiring: Wiring, places: list[Place]) -> bool:
    """Whether calls hold a weight that is no vector, and are several, or one that holds others."""
    nodes = [wiring.nodes[place] for place in places]
    several = len(nodes) > 1 or nodes[0].nested is not None or _inner(nodes[0]) > 1
    return several and any(map(has_kernel, nodes))


def _inner(node: Node) -> int:
    """Return how many layers with weights the layer of a call holds."""
    return len([layer for layer in sublayers(node.operation) if layer.weights])


def has_kernel(node: Node) -> bool:
    """Whether the operation of a call has a weight that is no vector."""
    return any(len(w.shape) > 1 for w in getattr(node.operation, "weights", ()))


def _composites(wiring: Wiring) -> list[list[Place]]:
    kinds: dict[str, list[Place]] = {}
    for place, node in wiring.nodes.items():
        if node.nested is not None or _inner(node) > 1:
            kinds.setdefault(node.kind, []).append(place)
    several = [places for places in kinds.values() if len(places) > 1]
    inside = {place_of(n) for places in several for p in places for n in wiring.nodes[p].scope}
    return [[p] for places in several for p in places if p not in inside]
