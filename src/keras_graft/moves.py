"""What edits put in the place of what: kept for attributes of a model that hold layers or tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.node import Node, Value

Move = tuple[Value, Value, tuple[Any, ...] | None]
"""A value, the one that is read in its stead, and the operations that came in the place of the one
that gave it: none if it was only taken away, None if it is still there."""

Moves = tuple[Any, ...]
"""The moves of the edits before, and those of the last edit; empty if there were none."""


def moved(
    made: Mapping[Any, tuple[Node | None, Value]],
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


def history(moves: Moves) -> list[list[Move]]:
    """Return what each edit moved, in the order of the edits."""
    found = []
    while moves:
        moves, last = moves
        found.append(last)
    return found[::-1]
