"""A block selected by the beginning of its names: `"conv3_block2"` is its last node."""

from __future__ import annotations

from keras_graft.errors import AmbiguousError
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import listed
from keras_graft.graph.node import Node
from keras_graft.printable import shown


def end_of_block(graph: Graph, text: str, scope: tuple[Node, ...]) -> Node | None:
    """Return the last node of the block whose names begin with `text` and `_` or `/`.

    The last node is the only one that is used outside the block. Names that differ in a number
    alone (`dense_1`, `dense_2`) are no block, and neither is a single node.

    Args:
        graph: The graph, or that of a nested model.
        text: The beginning of the names.
        scope: The nested models around the graph.

    Raises:
        AmbiguousError: If several nodes of the block are used outside; they are listed.
    """
    block = {
        node: graph.name_of(node)[len(text) + 1 :]
        for node in graph.steps
        if graph.name_of(node).startswith((f"{text}_", f"{text}/"))
    }
    if not text or len(block) < 2 or all(rest.isdecimal() for rest in block.values()):
        return None
    outputs = set(graph.outputs)
    ends = [
        node.within(graph, scope)
        for node in block
        if any(
            value in outputs or any(user not in block for user in graph.consumers(value))
            for value in node.gives
        )
    ]
    if len(ends) > 1:
        raise AmbiguousError(
            f"No node of {graph.name!r} is named {shown(text)}, and the block whose names begin "
            f"so has {len(ends)} nodes that are used outside it: {listed(n.path for n in ends)}. "
            "Name one of them."
        )
    return ends[0] if ends else None
