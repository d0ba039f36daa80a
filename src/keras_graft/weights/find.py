"""Find a weight by its address or variable: its layer, and its name within the layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import SelectionError, WeightsError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import leaves, tied
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.printable import shown
from keras_graft.tables import counted


@dataclass(frozen=True)
class NodeWeight:
    """One variable of one layer of a graph.

    Attributes:
        node: The first call of the layer.
        name: The name of the variable within the layer.
        variable: The variable.
    """

    node: Node
    name: str
    variable: Any

    @property
    def layer(self) -> Any:
        """The layer, as it is called in the graph."""
        return self.node.operation

    @property
    def owner(self) -> Any:
        """The layer inside `layer` to which the variable directly belongs."""
        return _ties.owner_of(self.layer, self.variable) or self.layer

    @property
    def path(self) -> str:
        """The layer's path in the model, without the number of the call."""
        return "/".join([*(n.name for n in self.node.scope), self.node.name])

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"


def find_weight(graph: Graph, wanted: Any, verb: str) -> NodeWeight:
    """Return the one weight that a user means.

    Args:
        graph: The graph.
        wanted: Its address: the path of the layer, then that of the weight within it, such as
            `"encoder/attn/query/kernel"` (`"lm_head.kernel"` too); or a variable.
        verb: For messages.

    Raises:
        WeightsError: If there is no such weight, or if it is not clear which is meant.
    """
    if isinstance(wanted, _keras.Tied):  # a variable seen through a transform
        for node in tied(graph):
            for tie in _ties.ties_of(node.operation):
                if tie.seen is wanted:
                    return NodeWeight(node, tie.weight, tie.source)
    if isinstance(wanted, keras.Variable):
        for by_tie in (False, True):  # the layer that owns it first
            for node in leaves(graph.nodes):
                for name, variable in _named(node, by_tie).items():
                    if variable is wanted:
                        return NodeWeight(node, name, variable)
        raise WeightsError(
            f"{verb}: the variable {wanted.path!r} belongs to no layer of {graph.name!r}. A tie is "
            "within one model: first make one model of both, with kg.join or by calling one inside "
            "the other."
        )
    splits = _splits(wanted) if isinstance(wanted, str) else []
    if not splits:
        raise WeightsError(
            f'{verb}: a weight is named by its address, such as "embedding/embeddings", or given '
            f"as a variable; got {shown(wanted)}."
        )
    refusal: Exception | None = None
    for path, name in splits:
        try:
            return _weight_of(graph, path, name, verb)
        except (SelectionError, WeightsError) as error:
            if refusal is None or isinstance(refusal, SelectionError):
                refusal = error  # an error about a layer that was found says more
    assert refusal is not None
    raise refusal


_DEEPEST = 16
"""How many names of layers inside a layer, and that of the weight, an address has at most."""


def _splits(address: str) -> list[tuple[str, str]]:
    """Return the ways to split an address into a layer and a weight, longest layer first."""
    places = [place for place, letter in enumerate(address) if letter == "/"][: -_DEEPEST - 1 : -1]
    dot = address.rfind(".")
    # A dot may separate them too: "attn.query/kernel". Names may hold dots as well.
    places += [dot] if dot > 0 else []
    return [(address[:i], address[i + 1 :]) for i in places if address[:i] and address[i + 1 :]]


def _weight_of(graph: Graph, path: str, name: str, verb: str) -> NodeWeight:
    operations = {id(n.operation): n for n in select_nodes(graph, path)}
    if len(operations) > 1:
        raise WeightsError(
            f"{verb}: {path!r} names {len(operations)} layers: "
            f"{listed(n.path for n in operations.values())}. Name one."
        )
    (node,) = operations.values()
    known = _named(node)
    if not known:
        raise WeightsError(
            f"{verb}: {node.path!r} ({node.kind}) has no weights: it is not built, or needs none."
        )
    found = [name] if name in known else [k for k in known if k.endswith("/" + name)]
    if len(found) != 1:
        raise WeightsError(
            f"{verb}: {node.path!r} ({node.kind}) has {counted(len(found), 'weight') if found else 'no weights'} "
            f"named {shown(name)}; it has {listed(known)}."
        )
    return NodeWeight(node, found[0], known[found[0]])


def _named(node: Node, by_tie: bool = True) -> dict[str, Any]:
    operation = unwrapped(node.operation)
    if not isinstance(operation, keras.Layer):
        return {}
    return _ties.named_weights(operation, tied=by_tie)
