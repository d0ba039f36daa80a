"""`Part`: a node, an input, an output or a nested model of a picture, with what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.display.arguments import call_arguments
from keras_graft.display.facts import Known
from keras_graft.display.order import deepest_first
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.look.costing import Costing
from keras_graft.printable import printable, quoted

Source = tuple["Part", int, "Spec | None"]
"""The part that gives a value, which of its outputs it is, and its spec."""


@dataclass(eq=False, slots=True)
class Part:
    """One thing in a picture, at one level: outer graph, or inside a nested model.

    Attributes:
        item: What the scene says about it.
        name: The name of its operation.
        form: Equal for parts that compute the same.
        near: What it reads at its own level: the part, or the number of an input of the level,
            and which output.
        reads: From which nodes and inputs it reads, through the borders of nested models: the
            source, and whether it is `"data"` or `"mask"`. Empty for a nested model.
        inside: The parts inside a nested model, in order.
        sizes: The parameters of its variables, by identity.
        trained: Those of them that training changes.
        match: Its type, and its path or number.
        node: The node, None for inputs and outputs.
    """

    item: dict[str, Any]
    name: str
    form: Any = None
    near: list[tuple[Part | int, int]] = field(default_factory=list)
    reads: list[tuple[Source, str]] = field(default_factory=list)
    inside: list[Part] | None = None
    sizes: Mapping[int, int] = field(default_factory=dict)
    trained: frozenset[int] = frozenset()
    match: tuple[str, Any] = ("group", None)
    node: Node | None = None


def parts_of(graph: Graph) -> list[Part]:
    """Return the inputs, the nodes in an order in which blocks stay together, and the outputs."""
    reader = _Reader(graph)
    given: dict[Value, Source | None] = {}
    inputs = []
    for value, name in zip(graph.inputs, graph.input_names, strict=True):
        part = Part(_item("input", name, "Input", [value], [], name), name, ("input", name))
        part.match = "input", name
        given[value.within(None)] = part, 0, value.spec
        inputs.append(part)
    nodes, found = reader.level(graph, given, "", ())
    outputs = []
    for number, value in enumerate(graph.outputs):
        label = graph.label(value)
        part = Part(_item("output", label, "Output", [value], [value], None), label, ("output",))
        part.match = "output", number
        source = found[value.within(None)]
        if source is not None:
            part.reads.append((source, "data"))
        outputs.append(part)
    return [*inputs, *nodes, *outputs]


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self._known = Known(graph)
        self._costing = Costing(graph)
        self._forms: dict[Any, int] = {}

    def level(
        self,
        graph: Graph,
        given: Mapping[Value, Source | None],
        prefix: str,
        scope: tuple[Node, ...],
    ) -> tuple[list[Part], dict[Value, Source | None]]:
        """Return the parts of one graph, and for each value the source outside all borders.

        Args:
            graph: The outer graph, or one inside a nested model.
            given: The sources of its inputs; None for an optional input that was left out.
            prefix: The path of the nested models around it, with a slash at the end.
            scope: The calls of the nested models around it.
        """
        found = dict(given)
        made: dict[Value, tuple[Part, int]] = {}
        entry = {value.within(None): i for i, value in enumerate(graph.inputs)}
        labels = _labels(graph)
        parts: dict[Any, Part] = {}
        for node in graph.steps:
            label = labels[node.key]
            part = self._part(node, graph.name_of(node), label, prefix + label, scope)
            for value in node.reads:
                if value in made and value not in entry:
                    part.near.append(made[value])
                elif value in entry:
                    part.near.append((entry[value], 0))
            if node.nested is None:
                masks = {v.mask for v in node.inputs}
                pairs = [(v, "mask" if v in masks else "data") for v in node.inputs]
                pairs += [(mask, "mask") for _, mask in node.hidden]
                for value, kind in pairs:
                    source = found.get(value)
                    if source is not None:
                        part.reads.append((source, kind))
                gives = [(v, (part, i, v.spec)) for i, v in enumerate(node.gives)]
            else:
                gives = self._open(node, part, found, prefix + label + "/", scope)
            part.form = self._number(part)
            for i, (value, source) in enumerate(gives):
                found.setdefault(value, source)
                made.setdefault(value, (part, i))
            parts[node.key] = part
        order = deepest_first(graph)
        return [parts[node.key] for node in order], found

    def _open(
        self,
        node: Node,
        part: Part,
        found: Mapping[Value, Source | None],
        prefix: str,
        scope: tuple[Node, ...],
    ) -> list[tuple[Value, Source | None]]:
        nested = node.nested
        assert nested is not None
        entering = [
            None if e.source is None else found.get(node.reads[e.source]) for e in node.entries
        ]
        given = {
            value.within(None): source
            for value, source in zip(nested.inputs, entering, strict=True)
        }
        part.inside, inner = self.level(nested, given, prefix, (*scope, node))
        leaving = [v.within(None) for v in nested.outputs]
        leaving += [inside.within(None) for _, inside in node.unseen]
        return [(v, inner.get(w)) for v, w in zip(node.gives, leaving, strict=True)]

    def _part(self, node: Node, name: str, label: str, path: str, scope: tuple[Node, ...]) -> Part:
        facts = self._known.of(node, name)
        group = node.nested is not None
        calls = call_arguments(node)
        item = _item(
            "group" if group else "node", label, node.kind, node.outputs, node.inputs, path
        )
        item.update(
            parameters=sum(facts.sizes.values()),
            trainable=sum(facts.sizes[key] for key in facts.trained),
            cost=None if group else self._costing.multiply_adds(node.within(None, scope)),
            arguments=facts.arguments + calls,
            state=facts.state,
            shared=facts.shared,
            ties=facts.ties,
        )
        if node.nested is not None:  # kg.select(model, "encoder/*") finds them, and no item is them
            item["inner_inputs"] = [printable(name) for name in node.nested.input_names]
        return Part(
            item, name, (facts.form, str(calls)), sizes=facts.sizes, trained=facts.trained,
            match=("node", path), node=node,
        )  # fmt: skip

    def _number(self, part: Part) -> int:
        """Return a number that is equal for parts of one form, outputs and inner structure."""
        inside = None
        if part.inside is not None:
            places = {inner: i for i, inner in enumerate(part.inside)}
            inside = tuple(
                (p.form, *((_back(places, i, near), output) for near, output in p.near))
                for i, p in enumerate(part.inside)
            )
        key = part.form, part.item["spec"], tuple(part.item["inputs"]), inside
        return self._forms.setdefault(key, len(self._forms))


def _back(places: Mapping[Part, int], place: int, near: Part | int) -> Any:
    return ("input", near) if isinstance(near, int) else place - places[near]


def _labels(graph: Graph) -> dict[Any, str]:
    """Return the label of each node by its key, as `Graph.label` gives it."""
    found: dict[Any, str] = {}
    for operation in graph.operations:
        calls = graph.calls(operation)
        name = graph.name_of(calls[0])
        for number, node in enumerate(calls):
            found[node.key] = name if len(calls) == 1 else f"{name}#{number}"
    return found


def specs(values: Sequence[Value]) -> list[str]:
    """Return the specs of values as texts."""
    return [str(value.spec or "?") for value in values]


def _item(
    type_: str,
    label: str,
    kind: str,
    outputs: Sequence[Value],
    inputs: Sequence[Value],
    path: str | None,
) -> dict[str, Any]:
    item = empty_item(type_, label, kind)
    if path is not None:
        item["path"], item["select"] = printable(path), f"kg.select(model, {quoted(path)})"
    item["spec"], item["inputs"] = "; ".join(specs(outputs)), specs(inputs)
    return item


def empty_item(type_: str, label: str, kind: str) -> dict[str, Any]:
    """Return an item of a scene with every entry, about which nothing is known but its name."""
    return {
        "type": type_,
        "parent": None,
        "label": printable(label),
        "path": None,
        "select": None,
        "kind": printable(kind),
        "spec": "",
        "inputs": [],
        "parameters": 0,
        "trainable": 0,
        "cost": None,
        "share": None,
        "arguments": [],
        "state": "none",
        "shared": None,
        "ties": [],
        "change": None,
        "may_differ": False,
        "times": None,
        "copy": None,
    }
