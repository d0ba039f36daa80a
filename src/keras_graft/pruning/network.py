"""`Network`: the links of a whole graph, with nested models and opened layers inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_graft import _keras, advice
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Value
from keras_graft.graph.record import is_wrapper
from keras_graft.model.opening.policy import holds_layers
from keras_graft.pruning import rules as rules  # registers them
from keras_graft.pruning.call import Call, all_unwrapped, variable_behind_views
from keras_graft.pruning.closure import Axis, Closure, Link
from keras_graft.pruning.registry import has_own_call, rule_for
from keras_graft.pruning.zeros import Ask, is_zero, known_zero
from keras_graft.ties.layer import named_weights


class Network:
    """What is coupled with what in a graph.

    Attributes:
        graph: The graph.
        closure: The positions that go together.
        stops: For an axis, why nothing can be removed there.
        notes: For an axis, what changes in the numbers if zeroed positions are removed.
        doubts: For an axis, calls with a note that holds where positions are not zero.
        unopened: The nodes that a group reaches and whose code was not opened yet.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.closure = Closure(self._links)
        self.stops: dict[Axis, str] = {}
        self.notes: dict[Axis, str] = {}
        self.doubts: dict[Axis, list[Call]] = {}
        self.unopened: dict[Any, Node] = {}
        self.nodes: dict[Any, Node] = {}
        self._users: dict[Any, list[Any]] = {}
        self._calls: dict[Any, Call] = {}
        self._bridges: dict[Any, list[Value]] = {}
        self._values: dict[Any, Value] = {}
        self._ends: dict[Any, str] = {}
        self._started: dict[Axis, list[Call]] = {}
        self._named: dict[int, dict[str, Any]] = {}
        self._places: dict[Any, int] = {}
        self._giver: dict[Any, Node] = {}
        self._outer: dict[Any, list[Value]] = {}
        self._zero: dict[Axis, bool] = {}
        self._walked: set[int] = set()
        self._walk(graph, ())
        for value, name in zip(graph.inputs, graph.input_names, strict=True):
            self._ends[value.key] = f"it is the input {name!r} of the model"
        for value in graph.outputs:
            self._ends[value.key] = f"{graph.label(value)!r} is an output of the model"

    def _walk(self, level: Graph, scope: tuple[Node, ...]) -> None:
        if id(level) in self._walked:  # a nested model that is called again
            return
        self._walked.add(id(level))
        for value in (*level.inputs, *(v for n in level.steps for v in n.gives)):
            self._values.setdefault(value.key, level.known(value))
        for step in level.steps:
            node = step.within(level, scope)
            self.nodes[node.key] = node
            if node.nested is not None:
                self._cross(node)
                self._walk(node.nested, (*scope, node))
                continue
            self._giver.update((v.key, node) for v in node.gives)
            layer = all_unwrapped(node.operation)
            holders = dict.fromkeys(v.key for v in (*node.reads, *node.gives))
            holders |= dict.fromkeys(("weight", id(w)) for w in _variables(layer))
            holders["operation", id(layer)] = None
            for holder in holders:
                self._places.setdefault(holder, len(self._places))
                self._users.setdefault(holder, []).append(node.key)

    def _cross(self, call: Node) -> None:
        """Couple the values inside a nested model with those outside."""
        assert call.nested is not None
        inside = [
            (inner, call.reads[entry.source])
            for inner, entry in zip(call.nested.inputs, call.entries, strict=True)
            if entry.source is not None and not entry.adapt
        ]
        given = list(zip(call.nested.outputs, call.outputs, strict=True))
        given += [(inner, outer) for outer, inner in call.unseen]
        for value, source in (*inside, *((outer, inner) for inner, outer in given)):
            self._outer.setdefault(value.key, []).append(source)
        pairs = [*inside, *given]
        for inner, outer in pairs:
            self._bridges.setdefault(inner.key, []).append(outer)
            self._bridges.setdefault(outer.key, []).append(inner)
        linked = {v.key for pair in pairs for v in pair}
        for value in (*call.nested.inputs, *call.reads):
            if value.key not in linked:
                name = call.within(call.graph, call.scope).path
                self._ends[value.key] = f"{name!r} adapts its rank or dtype"

    def source(self, node: Node) -> Axis | None:
        """Return the axis of a node that `kg.group` starts from; None if it has none."""
        return None if node.nested is not None else self.call(node).source

    def channels(self, node: Node) -> list[Axis]:
        """Return the axes that `keep=` means: what a node makes, or passes on, or what is inside it."""
        node = self.nodes.get(node.key, node)
        if node.nested is not None:
            return [axis for step in node.nested.steps for axis in self.channels(step)]
        source = self.source(node)
        if source is not None:
            return [source]
        call = self.call(node)
        axes = [call.axis(v, i) for v in call.outputs if v.spec for i in range(len(v.spec.shape))]
        return [axis for axis in axes if axis is not None]

    def call(self, node: Node) -> Call:
        """Return what the rule of a node says."""
        if node.key not in self._calls:
            node = self.nodes[node.key]
            call = Call(node, all_unwrapped(node.operation))
            rule = rule_for(node.operation)
            if rule is not None and all(v.spec is not None for v in (*call.inputs, *call.outputs)):
                rule(call)
                _stop_at_constants(call)
            if getattr(call.layer, "lora_enabled", False):
                for axis in call.settled:
                    call.stop(axis, f"it has LoRA adapters: {advice.call('merge_adapters')} first")
            self._calls[node.key] = call
            if call.source is not None:
                self._started.setdefault(call.source, []).append(call)
        return self._calls[node.key]

    def changes(self, axis: Axis) -> list[str]:
        """Return what changes in the numbers if zeroed positions of an axis are removed."""
        found = [self.notes[axis]] if axis in self.notes else []
        for call in self.doubts.get(axis, ()):
            text, axes, every = call.doubts[axis]
            zero = [known_zero(a, self._is_zero, self._zero) for a in axes]
            if not (all(zero) if every else any(zero)):
                found.append(f"{call.node.kind} {call.node.path!r}: {text}")
        return found

    def _is_zero(self, axis: Axis, ask: Ask) -> bool:
        if axis not in self.closure.axes_known:
            return True  # nothing goes there
        if axis.holder in self._giver:
            return is_zero(self.call(self._giver[axis.holder]), axis, ask)
        outer = [Axis(v.key, axis.at, axis.size) for v in self._outer.get(axis.holder, ())]
        return bool(outer) and all([ask(a) for a in outer])

    def started_at(self, axis: Axis) -> list[Call]:
        """Return the calls whose channels an axis counts."""
        return self._started.get(axis, [])

    def named_weights(self, layer: Any) -> dict[str, Any]:
        """Return the weights of a layer by their paths below its own name."""
        if id(layer) not in self._named:
            self._named[id(layer)] = named_weights(layer)
        return self._named[id(layer)]

    def place(self, axis: Axis) -> int:
        """Return a number that orders axes of weights as their layers are called."""
        return self._places[axis.holder]

    def calls_of(self, axis: Axis) -> list[Call]:
        """Return the calls that an axis belongs to."""
        holder = axis.holder
        if isinstance(holder, tuple) and holder[0] == "number":
            holder = ("operation", holder[1])
        return [self.call(self.nodes[key]) for key in self._users.get(holder, ())]

    def _links(self, axis: Axis) -> Iterator[Link]:
        settled = False
        for call in self.calls_of(axis):
            for begin in call.later:
                begin(axis)
            yield from (link for link in call.links if link.one == axis)
            yield from (link.turned() for link in call.links if link.other == axis)
            if axis in call.notes:
                self.notes.setdefault(
                    axis, f"{call.node.kind} {call.node.path!r}: {call.notes[axis]}"
                )
            if axis in call.doubts:
                self.doubts.setdefault(axis, []).append(call)
            if axis in call.stops:
                reason = f"{call.node.kind} {call.node.path!r}: {call.stops[axis]}"
                self.stops.setdefault(axis, reason)
            elif axis in call.settled:
                settled = True
            elif not isinstance(axis.holder, tuple):
                self._stopped(axis, call)
        if isinstance(axis.holder, tuple):
            if not settled and axis not in self.stops:
                self.stops[axis] = f"no rule says what axis {axis.at} of {self.name(axis)} is"
            return
        if axis.holder in self._ends:
            self.stops.setdefault(axis, self._ends[axis.holder])
        for value in self._bridges.get(axis.holder, ()):
            spec = self._values[value.key].spec
            rank = None if spec is None else len(spec.shape)
            if rank is not None and axis.at < rank and spec.shape[axis.at] == axis.size:  # type: ignore[union-attr]
                other = Axis(value.key, axis.at, axis.size)
                yield Link(axis, other, np.arange(axis.size), np.arange(axis.size))
            else:
                self.stops.setdefault(axis, "a nested model adapts its shape")

    def _stopped(self, axis: Axis, call: Call) -> None:
        node = call.node
        known = rule_for(node.operation) is not None
        if not known and not node.closed and holds_layers(node.operation):
            self.unopened[node.key] = node
        if known:
            why = f"no rule says what becomes of axis {axis.at} of {self.name(axis)}"
        elif is_wrapper(node.operation):
            why = "what it freezes is closed: prune first, then freeze"
        elif has_own_call(all_unwrapped(node.operation)):
            why = "its call was set on this one layer, and may compute anything"
        else:
            why = node.closed or "there is no rule for this class"
        self.stops.setdefault(axis, f"{node.kind} {node.path!r}: {why}")

    def name(self, axis: Axis) -> str:
        """Return the name of what an axis belongs to."""
        holder = axis.holder
        if not isinstance(holder, tuple):
            value = self._values[holder]
            return repr(value.name or "a value")
        if holder[0] == "number":
            return ".".join(map(str, holder[2]))
        for call in self.calls_of(axis):
            for variable in _variables(call.layer):
                if id(variable) == holder[1]:
                    return repr(variable.path)
        return "a weight"


def _stop_at_constants(call: Call) -> None:
    """Stop the axes that an array among the arguments may have too: nothing makes it smaller."""
    if _keras.op_name(call.layer) is not None and type(call.layer).__name__ in INDEXED:
        return
    sizes = {size for shape in call.constant_shapes() for size in shape if size != 1}
    for axis in call.settled:
        if axis.size in sizes:
            call.stop(axis, f"an array among its arguments has an axis of size {axis.size} too")


INDEXED = ("GetItem", "Slice", "Take")
"""Ops whose arguments say which positions are taken: their rules look at them."""


def _variables(layer: Any) -> list[Any]:
    """Return the variables of a layer, without the views of frozen ones."""
    found = [variable_behind_views(w) for w in getattr(layer, "weights", ())]
    return [w.source if isinstance(w, _keras.Tied) else w for w in found]
