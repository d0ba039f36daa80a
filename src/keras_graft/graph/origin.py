"""Where a graph comes from, and what edits put in the place of what.

It is kept for the class of a model and its attributes, which may hold layers and tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keras_graft.graph.node import Node, Value
from keras_graft.graph.overlay import Overlay

if TYPE_CHECKING:
    from keras_graft.graph.graph import Graph

Move = tuple[Value, Value, tuple[Any, ...] | None]
"""A value, the one that is read in its stead, and the operations that came in the place of the one
that gave it: none if it was only taken away, None if it is still there."""


@dataclass(frozen=True)
class Past:
    """Where a graph comes from, until it is taken apart.

    Attributes:
        body: What has the class and the attributes that a model of the graph gets. Opaque.
        base: The graph that it was read with; None if that is this one.
        last: The moves of the edits before the last, and those of the last; empty if there are
            none.
    """

    body: Any
    base: Graph | None = None
    last: tuple[Any, ...] = ()

    def edited(self, graph: Graph, moves: list[Move] | None = None) -> Past:
        """Return the past of what an edit makes of a graph that has this one."""
        base = graph if self.base is None else self.base
        return replace(self, base=base, last=(self.last, moves) if moves else self.last)

    def moves(self) -> list[list[Move]]:
        """Return what each edit moved, in the order of the edits."""
        found, last = [], self.last
        while last:
            last, moves = last
            found.append(moves)
        return found[::-1]


def moved(
    made: Overlay[Any, tuple[Node | None, Value]],
    reads: Mapping[Value, Value],
    instead: Mapping[Any, tuple[Node, ...]],
) -> list[Move]:
    """Return what one edit moves.

    Args:
        made: The node that gives a value, by the value's key.
        reads: For each value that is to be read no more, the one to read in its stead.
        instead: The nodes in the place of one, by its key.
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
