"""How much a call computes: the estimate of `kg.features.advise`."""

from __future__ import annotations

from keras_graft.features._advise import _work
from keras_graft.graph.node import Node


def cost(node: Node) -> int | None:
    """Return the multiplications with weights for one sample, or None where they are not known."""
    try:
        return _work(node)
    except (TypeError, ValueError, AttributeError):  # a custom layer: a picture can do without
        return None
