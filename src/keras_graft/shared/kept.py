"""Ties after an edit: keep them, or refuse the edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_graft import _keras, advice
from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.record import unwrapped
from keras_graft.graph.select import everything, leaves, tied
from keras_graft.model.swap import exchanged


def edited(old: Graph, graph: Graph, verb: str) -> Graph:
    """Return the graph after an edit; refuse the edit if it would silently break a tie.

    Args:
        old: The graph before the edit.
        graph: The graph after the edit.
        verb: For messages.

    Raises:
        EditError: If the layer with the source of a tie is gone, or no longer used, and the tied
            layer is still there.
    """
    tied_before = tied_nodes(old)
    if tied_before:
        stay = _operations(graph)
        gone = [op for key, op in _operations(old).items() if key not in stay]
        lost = {id(w) for op in gone for w in _owned(op)}
        if any(id(tie.source) in lost for n in tied_before for tie in _ties.ties_of(n.operation)):
            lost -= {id(w) for op in stay.values() for w in _owned(op)}
        for node in tied_before:
            for tie_ in _ties.ties_of(node.operation):
                if id(tie_.source) in lost and id(node.operation) in stay:
                    target = f"{path_of(node)}/{tie_.weight}"
                    raise EditError(
                        f"{verb}: {target!r} is tied to {tie_.source_name!r}, which would be gone. "
                        f"Untie it first: {advice.call('untie', ('target', str(target)))}."
                    )
    return graph


def retied(graph: Graph, pairs: Sequence[tuple[Any, Any]]) -> Graph:
    """Return the graph with its ties to some variables moved to different variables.

    Args:
        graph: The graph.
        pairs: Pairs of variables: (new, old).
    """
    instead = {id(old): new for new, old in pairs}
    made = {
        id(node.operation): _ties.shared_copy(node.operation, instead=instead)
        for node in tied_nodes(graph)
        if any(id(tie.source) in instead for tie in _ties.ties_of(node.operation))
    }
    if not made:
        return graph
    tell_sources(graph, made.values())
    places = [node for node in everything(graph) if id(node.operation) in made]
    return exchanged(graph, places, lambda node: made[id(node.operation)])


def tied_again(graph: Graph, old: Any, new: Any, verb: str) -> None:
    """Give a new layer, which is in the graph, the ties of the layer that it replaces."""
    for tie_ in _ties.ties_of(old):
        seen = {tie.weight: tie.seen for tie in _ties.ties_of(new)}
        want = seen.get(tie_.weight, _ties.named_weights(new).get(tie_.weight))
        have = _keras.TRANSFORMS[tie_.transform].shape if tie_.transform else tuple
        if want is None or tuple(want.shape) != tuple(have(tuple(tie_.source.shape))):
            raise EditError(
                f"{verb}: {tie_.target_name!r} is tied to {tie_.source_name!r}, and "
                f"{new.name!r} has no such weight of that shape. Untie it first: "
                f"{advice.call('untie', ('target', str(tie_.target_name)))}."
            )
        _ties.carry_out(new, _ties.same_tie(tie_, new), tie_.source, tie_.seen.owner)
    tell_sources(graph, [new])


def _operations(graph: Graph) -> dict[int, Any]:
    """Return the operations of a graph; for a nested model, the operations inside it."""
    return {id(node.operation): node.operation for node in leaves(graph.nodes)}


def _owned(operation: Any) -> list[Any]:
    """Return the weights of an operation, without those that it has only by a tie."""
    others = {id(tie.source) for tie in _ties.ties_of(operation) if not tie.inside}
    return [w for w in getattr(operation, "weights", ()) if id(w) not in others]


def tell_sources(graph: Graph, layers: Iterable[Any]) -> None:
    """Set on new tied layers which layers of the graph their sources belong to."""
    ties = [(layer, tie) for layer in layers for tie in _ties.ties_of(layer)]
    sources = {id(tie.source) for _, tie in ties}
    # Not the wrapper of a frozen layer: that one has no adapters, and the layer inside may have.
    operations = {id(op): op for op in (unwrapped(n.operation) for n in leaves(graph.nodes))}
    owners = {
        id(weight): _ties.owner_of(operation, weight)
        for operation in operations.values()
        for weight in getattr(operation, "weights", ())
        if id(weight) in sources and _ties.owns(operation, weight)
    }
    for layer, tie in ties:
        if id(tie.source) in owners:
            tie.seen.owner = owners[id(tie.source)]
            layer.source_found(tie.seen.owner)


def tied_nodes(graph: Graph) -> list[Node]:
    found = {id(n.operation): n for n in tied(graph) if _ties.ties_of(n.operation)}
    return list(found.values())


def path_of(node: Node) -> str:
    return "/".join([*(n.name for n in node.scope), node.name])
