"""Graphs and selections as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_graft.graph.node import Node
from keras_graft.graph.parameters import count_parameters
from keras_graft.printable import printable
from keras_graft.tables import Table, counted

if TYPE_CHECKING:
    from keras_graft.graph.graph import Graph
    from keras_graft.graph.select import Selection

_HEAD = ("node", "kind", "output", "params", "from")


def graph_tables(graph: Graph) -> list[Table]:
    """Return a graph as a table, one input or node per line, under a summary."""
    rows: list[tuple[object, ...]] = [
        (graph.label(v), "Input", v.spec or "?", 0, "") for v in graph.inputs
    ]
    for node in graph.steps:
        specs = "; ".join(str(v.spec or "?") for v in node.outputs)
        sources = ", ".join(graph.label(v) for v in node.inputs)
        params = count_parameters([node.operation])
        rows.append((graph.label(node), node.kind, specs, params, sources))
    return [(repr(graph), _HEAD, rows)]


def graph_footer(graph: Graph) -> str:
    """Return the line below the table of a graph: outputs and number of parameters."""
    outputs = ", ".join(graph.label(v) for v in graph.outputs)
    return (
        f"outputs: {printable(outputs)}; {counted(count_parameters(graph.operations), 'parameter')}"
    )


def selection_tables(selection: Selection) -> list[Table]:
    """Return a selection as a table, one item per line."""
    rows = []
    for item in selection.items:
        values = item.outputs if isinstance(item, Node) else (item,)
        specs = "; ".join(str(v.spec or "?") for v in values)
        rows.append((item.path, getattr(item, "kind", "value"), specs))
    return [(f"{len(selection)} from {selection.what}", ("path", "kind", "output"), rows)]
