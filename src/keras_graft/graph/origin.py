"""The history of a graph: the model it was read from, and what each edit replaced.

An edited model gets the donor's class and attributes; these may hold layers and tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keras_graft.graph.node import Node, Value

if TYPE_CHECKING:
    from keras_graft.graph.graph import Graph

Move = tuple[Value, Value, tuple[Any, ...] | None]
"""A value, the value that is read instead, and the operations that replaced its producer: an empty
tuple if the producer was only removed, None if it is still there."""


@dataclass(frozen=True)
class Past:
    """The history of a graph. A part of a graph has none.

    Attributes:
        body: The source of the class and attributes for a model built from the graph. Opaque.
        base: The graph as it was first read; None if that is this one.
        last: A pair: `last` as it was before the latest edit, and the moves of that edit; empty
            if there are no moves.
    """

    body: Any
    base: Graph | None = None
    last: tuple[Any, ...] = ()

    def edited(self, graph: Graph, moves: list[Move] | None = None) -> Past:
        """Return the history after an edit of `graph`, which has this history."""
        base = graph if self.base is None else self.base
        return replace(self, base=base, last=(self.last, moves) if moves else self.last)

    def moves(self) -> list[list[Move]]:
        """Return the moves of each edit, in the order of the edits."""
        found, last = [], self.last
        while last:
            last, moves = last
            found.append(moves)
        return found[::-1]


def moved(
    made: dict[Any, tuple[Node | None, Value]],
    reads: Mapping[Value, Value],
    instead: Mapping[Any, tuple[Node, ...]],
) -> list[Move]:
    """Return the moves of one edit.

    Args:
        made: For the key of each value, the node that gives it, and the value.
        reads: For each value to replace, the value to read instead.
        instead: For the key of each node that changes, the nodes that take its place.
    """
    moves: list[Move] = []
    for old, new in reads.items():
        producer = made[old.key][0] if old.key in made else None
        there = () if producer is None else instead.get(producer.key, (producer,))
        if producer is None or any(node.key is producer.key for node in there):
            moves.append((old, new, None))
            continue
        given = any(v.key is new.key for node in there for v in node.gives)
        moves.append((old, new, tuple(n.operation for n in there) if given else ()))
    return moves
