"""Tie each `Weight` of an opened layer to the layer that the variable belongs to.

Code may use a weight of another layer itself: a language model multiplies by its embedding matrix.
Without a tie, a file would hold it twice, and give two weights again.
"""

from __future__ import annotations

from typing import Any

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import all_ties, unwrapped
from keras_graft.graph.select import leaves
from keras_graft.layers.weight import Weight


def with_ties(graph: Graph) -> Graph:
    """Return the graph; its `Weight`s that hold variables of other layers are tied to these."""
    nodes = list(leaves(graph.nodes))
    weights = [n for n in nodes if type(n.operation) is Weight and not all_ties(n.operation)]
    if not weights:
        return graph
    owners = _owners(nodes, {id(node.operation.value) for node in weights})
    tied = False
    for node in weights:
        owner = owners.get(id(node.operation.value))
        if owner is not None and owner[0].operation is not node.operation:
            _tie(node, *owner)
            tied = True
    return graph.holding({}) if tied else graph  # its tables say which nodes are tied


def _owners(nodes: list[Node], wanted: set[int]) -> dict[int, tuple[Node, str]]:
    """Return for each variable the first layer that has it, a `Weight` only if no other does."""
    found: dict[int, tuple[Node, str]] = {}
    for node in sorted(nodes, key=lambda n: type(n.operation) is Weight):
        layer: Any = unwrapped(node.operation)
        own = [w for w in getattr(layer, "weights", ()) if id(w) in wanted and id(w) not in found]
        if own:
            names = _ties.named_weights(layer, tied=False)
            for name, variable in names.items():
                if id(variable) in wanted:
                    found.setdefault(id(variable), (node, name))
    return found


def _tie(node: Node, source: Node, name: str) -> None:
    layer, variable = node.operation, node.operation.value
    target = "/".join([*(around.name for around in node.scope), node.name])
    path = "/".join([*(around.name for around in source.scope), source.name])
    layer.take(_keras.stand_in(variable, f"{layer.name}/value"))
    owner = _ties.owner_of(unwrapped(source.operation), variable)
    record = _ties.Tie("value", None, target, path, name)
    _ties.carry_out(layer, record, variable, owner or unwrapped(source.operation))
