"""Number the values of two graphs: equal numbers mean the same calls on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Slot, Value
from keras_graft.graph.same import comparable, numbered

Place = tuple[tuple[Any, ...], Any]
"""Where a node is: the keys of the nested models around it, and its own key."""


def place_of(node: Node) -> Place:
    """Return where a node is, also inside nested models."""
    return tuple(n.key for n in node.scope), node.key


@dataclass
class Numbers:
    """Numbers for the values of several graphs.

    Attributes:
        identity: Returns what stands for an operation: equal for operations that count as the same.
        leaf: Returns what stands for an argument that is neither plain data nor a tensor.
    """

    identity: Callable[[Any], Any] = id
    leaf: Callable[[Any], Any] = id
    _known: dict[Any, int] = field(default_factory=dict)

    def number(self, key: Any) -> int:
        """Return the number of a key; equal keys have the same number."""
        return self._known.setdefault(key, len(self._known))

    def of(self, graph: Graph, names: Mapping[str, str] | None = None) -> Numbered:
        """Number the values of a graph.

        Its inputs are known by their names, or by those that `names` has for them.
        """
        result = Numbered({}, {})
        names = {} if names is None else names
        given = [self.number(("input", names.get(name, name))) for name in graph.input_names]
        result.values = self._inside(graph, given, None, (), result.calls)
        return result

    def _inside(
        self,
        graph: Graph,
        given: Sequence[int],
        training: bool | None,
        scope: tuple[Any, ...],
        calls: dict[Place, tuple[int, ...]],
    ) -> dict[Value, int]:
        """Number the values inside.

        The calls inside a nested model are numbered, not the call of the model, so inlining or
        nesting changes no number. `training` is the flag of the call of that model: every layer
        inside gets it.
        """

        def call(node: Node, reads: list[int]) -> list[int]:
            found = self._gives(node, reads, node.flag(training), scope, calls)
            calls[scope, node.key] = tuple(found)
            return found

        return numbered(graph, given, call)

    def _gives(
        self,
        node: Node,
        reads: list[int],
        flag: bool | None,
        scope: tuple[Any, ...],
        calls: dict[Place, tuple[int, ...]],
    ) -> list[int]:
        if node.nested is None:
            kwargs = {k: v for k, v in node.template.kwargs.items() if v is not None}
            if node.trains:
                kwargs["training"] = flag
            args = comparable(node.template.args, self.leaf)
            called = (self.identity(node.operation), args, comparable(kwargs, self.leaf))
            key = (called, tuple(reads[: len(node.inputs)]), tuple(_hidden(node, reads)))
            return [self.number((key, i)) for i in range(len(node.outputs))]
        entering = []
        for entry in node.entries:
            at = -1 if entry.source is None else reads[entry.source]
            for step in entry.adapt:
                at = self.number((type(step.operation).__name__, step.outputs[0].spec, at))
            entering.append(at)
        inside = self._inside(node.nested, entering, flag, (*scope, node.key), calls)
        return [inside[v] for v in (*node.nested.outputs, *(mask for _, mask in node.unseen))]


def _hidden(node: Node, reads: Sequence[int]) -> list[int]:
    """Return the numbers of the masks that a call reads beside its arguments.

    A loaded model may attach a mask to a tensor that it passes as an argument too.
    """
    kwargs = node.template.kwargs.items()
    said = {reads[v.index] for k, v in kwargs if k.endswith("mask") and isinstance(v, Slot)}
    return [number for number in reads[len(node.inputs) :] if number not in said]


@dataclass
class Numbered:
    """The numbers of one graph.

    Attributes:
        values: For each value of the graph itself, its number.
        calls: For each call, also inside nested models, the numbers of what it gives.
    """

    values: dict[Value, int]
    calls: dict[Place, tuple[int, ...]]
