"""Which positions of another variable a variable was made of, as `prune` and `widen` note it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_graft.graph.record import record_of, remember


@dataclass(frozen=True)
class Taken:
    """What a variable was made of.

    Attributes:
        source: A reference to the other variable: it does not keep a donor alive.
        parts: Pairs: an axis, and the positions that were taken, in order.
    """

    source: Any
    parts: tuple[tuple[int, np.ndarray], ...]

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the same positions of an array of the other variable's shape."""
        for axis, positions in self.parts:
            array = np.take(array, positions, axis)
        return array


def note_taken(new: Any, old: Any, parts: Sequence[tuple[int, np.ndarray]]) -> None:
    """Remember what a variable was made of, so that its slots in an optimizer can follow."""
    remember(new, taken=Taken(weakref.ref(old), tuple(parts)))


def taken_from(variable: Any, sources: dict[int, Any]) -> Any:
    """Return the variable, among some by identity, that a variable was made of; None if none is."""
    taken = record_of(variable).taken
    source = None if taken is None else taken.source()
    return source if source is not None and id(source) in sources else None


def slot_taken(variable: Any, source: Any, slot: np.ndarray) -> np.ndarray | None:
    """Return the same positions of a slot of a variable; None if the slot has another shape."""
    taken = record_of(variable).taken
    if taken is None or taken.source() is not source or slot.shape != tuple(source.shape):
        return None
    return taken.of(slot)
