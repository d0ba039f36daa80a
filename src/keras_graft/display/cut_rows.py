"""The cuts of a network, as a scene lists them: both sides, with sizes and share of compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.look.cuts import cuts
from keras_graft.printable import printable, quoted


def cut_rows(graph: Graph, identifier: Callable[[Any], str | None]) -> list[dict[str, Any]]:
    """Return one row for each single value at which the graph can be cut.

    Args:
        graph: The graph.
        identifier: Returns the identifier of a node in the scene, by the node's key.
    """
    rows: list[dict[str, Any]] = []
    for cut in cuts(graph):
        producer = graph.producer(cut.value)
        size = cut.bytes_per_sample
        rows.append({
            "after": None if producer is None else identifier(producer.key),
            "name": printable(cut.name),
            "output": str(cut.value.spec or "?"),
            "bytes": size,
            "bytes_text": str(cut.size),
            "below": cut.parameters_below,
            "above": cut.parameters_above,
            "share": cut.compute_below,
            "call": f"kg.split(model, {quoted(cut.name)})",
        })  # fmt: skip
    return rows
