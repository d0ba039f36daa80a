"""Tables as aligned text, and the same tables as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keras_graft.graph import Graph, count_parameters

if TYPE_CHECKING:
    from keras_graft.select import Selection


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as text in aligned columns; numbers stand to the right.

    >>> print(table(["layer", "params"], [["dense", 10], ["out", 3]]))
    layer  params
    dense      10
    out         3
    """
    cells = [[_cell(c) for c in row] for row in rows]
    right = [all(_is_number(row[i]) for row in cells) and bool(cells) for i in range(len(head))]
    widths = [max([len(h), *(len(row[i]) for row in cells)]) for i, h in enumerate(head)]
    lines = []
    for row in [list(head), *cells]:
        parts = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as an HTML table."""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c))}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    return text == "?" or text.replace(",", "").replace(".", "").isdigit()


_HEAD = ("node", "kind", "output", "params", "from")


def _rows(graph: Graph) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (graph.label(v), "Input", v.spec or "?", 0, "") for v in graph.inputs
    ]
    for node in graph.steps:
        specs = "; ".join(str(v.spec or "?") for v in node.outputs)
        sources = ", ".join(graph.label(v) for v in node.inputs)
        params = count_parameters([node.operation])
        rows.append((graph.label(node), node.kind, specs, params, sources))
    return rows


def graph_table(graph: Graph) -> str:
    """Return a graph as a table, one node a line."""
    outputs = ", ".join(graph.label(v) for v in graph.outputs)
    total = count_parameters(graph.operations)
    return f"{graph!r}\n{table(_HEAD, _rows(graph))}\noutputs: {outputs}; {total:,} parameters"


def graph_html(graph: Graph) -> str:
    """Return a graph as an HTML table."""
    return html_table(_HEAD, _rows(graph))


def selection_table(selection: Selection) -> str:
    """Return a selection as a table."""
    rows = [
        (i.path, getattr(i, "kind", "value"), "; ".join(str(v.spec) for v in _values(i)))
        for i in selection.items
    ]
    return f"{len(selection)} from {selection.what}\n{table(('path', 'kind', 'output'), rows)}"


def _values(item: object) -> tuple[object, ...]:
    return item.outputs if hasattr(item, "outputs") else (item,)  # type: ignore[attr-defined]
