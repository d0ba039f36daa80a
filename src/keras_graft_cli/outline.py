"""The outline of a model, for `show`."""

from __future__ import annotations

from typing import Any

from keras_graft_cli.errors import UsageError
from keras_graft_cli.running import Told


def outline(graph: Any, chosen: Any, depth: int | None) -> Told:
    """Return the outline of a graph, or what a selector chose in it.

    Args:
        graph: The graph.
        chosen: A selection; None for all.
        depth: How many levels are open.
    """
    import keras_graft as kg

    show: Any = getattr(kg, "show", None)
    if show is None:
        raise kg.NotYetError(
            "This version of keras-graft has no kg.show yet; `nodes` lists the calls."
        )
    raise UsageError("not written yet")
