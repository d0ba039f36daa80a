"""Select nodes that a verb acts on, such as those that `freeze` freezes."""

from __future__ import annotations

from typing import Any

from keras_graft.errors import SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.select import by_text, select
from keras_graft.printable import shown


def select_nodes(graph: Graph, selector: Any) -> tuple[Node, ...]:
    """Find nodes that a verb acts on, one by one: the beginning of a block's names is refused.

    It selects the last node of the block, and a user who freezes or removes it means all of it.

    Raises:
        SelectionError: It gives the selector of the whole block, and that of its last node.
    """
    found = select(graph, selector).nodes
    parts = selector if isinstance(selector, list | tuple) else [selector]
    for text in (part for part in parts if isinstance(part, str)):
        if next(by_text(graph, text, ()), None) is None:
            end = select(graph, text).nodes[0].path
            raise SelectionError(
                f"No node of {graph.name!r} is named {shown(text)}, but the names of a block begin so. For "
                f"the whole block give {shown(text + end[len(text)] + '*')}, for its last node {shown(end)}."
            )
    return found
