"""`Part`: some nodes of a graph that something else takes the place of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_graft.graph.node import Node, Value


@dataclass(frozen=True, eq=False)
class Part:
    """Some nodes that something else takes the place of.

    Attributes:
        nodes: The nodes.
        reads: What the new part reads: nodes of these, and at which of their inputs.
        outputs: The values that are replaced.
        what: Handed to what makes the new part.
    """

    nodes: tuple[Node, ...]
    reads: tuple[tuple[Node, int], ...]
    outputs: tuple[Value, ...]
    what: Any
