"""The inputs and outputs of a part of a model, and the error if inputs are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_graft import advice
from keras_graft.errors import CutError, NothingSelectedError
from keras_graft.graph.copies import copied
from keras_graft.graph.graph import Graph
from keras_graft.graph.names import Names, listed, safe
from keras_graft.graph.node import Node, Slot, Value, flat_slots
from keras_graft.graph.opened import Opened
from keras_graft.graph.order import sort
from keras_graft.graph.select import is_exact, select, select_value
from keras_graft.graph.walk import needed


def renewed(graph: Graph) -> Graph:
    """Return the same graph with new keys, so that another graph can contain it twice."""
    inputs = {v: Value(v.spec, v.name, v.optional, v.mask, v.origin) for v in graph.inputs}
    inputs = {old: new.masked(inputs) for old, new in inputs.items()}
    nodes, mapping = copied(graph.steps, inputs)
    return graph.replace(
        nodes=nodes,
        inputs=inputs.values(),
        outputs=[mapping[v] for v in graph.outputs],
    )


def refuse(
    opened: Opened, graph: Graph, boundary: Sequence[Value], missing: Sequence[Value], verb: str,
    works: Callable[[Value], bool],
) -> None:  # fmt: skip
    """Raise a `CutError`: what is missing, what needs it, and which calls work."""
    labels = [opened.path(v) for v in boundary]
    lines = []
    for value in missing:
        users = [user_of(opened, n) for n in opened.graph.consumers(value)]
        need = f"needed by {listed(users, 3)}" if users else "returned as an output"
        lines.append(f"  {opened.path(value)!r}, {need}")
    suggestion = tuple(labels + [opened.path(v) for v in missing])
    ways = f"This works: {call_text(verb, suggestion)}"
    complete = advice.option("complete", True)
    ways += f", or {advice.way('at', 'at=... with')} {complete}." if verb == "split" else "."
    source = _only_source(graph, missing)
    if source is not None and source not in boundary and works(source):
        name = opened.path(source)
        ways += (
            f"\nAll of this comes from {name!r} alone, so this works too: "
            f"{call_text(verb, [*labels, name])}."
        )
    raise CutError(
        f"{listed(labels)} is not a cut of {opened.graph.name!r}: {len(missing)} other "
        f"value{'s cross' if len(missing) > 1 else ' crosses'} there:\n"
        + "\n".join(lines)
        + f"\n{ways}",
        missing,
        suggestion,
    )


def call_text(verb: str, names: Sequence[str]) -> str:
    if verb == "split":
        return advice.call("split", at=tuple(names))
    return advice.call("submodel", inputs=list(names), outputs=advice.As("..."))


def _only_source(graph: Graph, values: Sequence[Value]) -> Value | None:
    """Return the only input that values are computed from; None if several, or one of them."""
    reads = {v for node in needed(graph, values) for v in node.reads} | set(values)
    sources = [v for v in graph.inputs if v in reads]
    return sources[0] if len(sources) == 1 and sources[0] not in values else None


def user_of(opened: Opened, node: Node) -> str:
    path = opened.path(opened.graph.value(node.outputs[0]))
    return path if len(node.outputs) == 1 else path.rpartition(":")[0]


def ends(
    graph: Graph, chosen: Any, default: Sequence[Value], template: Any
) -> tuple[list[Value], Any]:
    """Return the inputs or outputs of a part that selectors name, and their structure."""
    if chosen is None:
        return list(default), template
    if isinstance(chosen, dict):
        if not chosen:
            raise NothingSelectedError(f"An empty dict names no value of {graph.name!r}.")
        values = [select_value(graph, s) for s in chosen.values()]
        return values, {name: Slot(i) for i, name in enumerate(chosen)}
    if isinstance(chosen, list | tuple) and chosen:
        values = [select_value(graph, s) for s in chosen]
        return values, flat_slots(len(values))
    values = list(select(graph, chosen).values)
    if len(values) == 1 and is_exact(graph, chosen):
        return values, Slot(0)
    return values, {v.path: Slot(i) for i, v in enumerate(values)}


def part(
    graph: Graph, inputs: Sequence[Value], input_template: Any, outputs: Sequence[Value],
    output_template: Any, nodes: Sequence[Node], name: str,
) -> Graph:  # fmt: skip
    """Return a part of a graph; its inputs may be outputs of nodes outside the part."""
    names = Names()
    entries = []
    for value in inputs:
        producer = graph.producer(value)
        label = value.name if producer is None else safe(graph.label(value))
        entries.append(
            Value(
                value.spec, names.take(label), producer is None and value.optional, value.mask,
                value.origin, value.key,
            )
        )  # fmt: skip
    return graph.replace(
        nodes=sort(nodes, inputs), inputs=tuple(entries), input_template=input_template,
        outputs=tuple(outputs), output_template=output_template, name=name, origin=None, past=None,
        edits=(),
    )  # fmt: skip
