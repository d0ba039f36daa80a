"""`diff`: what two models share, what is new or dropped, and which outputs may differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft._keras import leaves_flag
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node, Spec, Value
from keras_graft.graph.parameters import weights_of
from keras_graft.graph.record import record_of
from keras_graft.graph.same import comparable, numbered
from keras_graft.graph.select import everything, leaves
from keras_graft.look.sharing import sharing
from keras_graft.model.attributes import class_of
from keras_graft.model.read import read
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Layer:
    """One operation in a report.

    Attributes:
        name: The path of its first call.
        kind: Its class.
        parameters: How many it has.
    """

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class SpecChange:
    """An output of a call that is in both graphs, whose shape or dtype changed.

    Attributes:
        name: The path of the value in the new graph.
        old: Its spec before.
        new: Its spec now.
    """

    name: str
    old: Spec | None
    new: Spec | None


@dataclass(frozen=True)
class Kept:
    """Trained values that were copied to a new layer.

    Attributes:
        source: The layer they come from.
        weights: The weights that were copied, by their names within the layer.
        dropped: The weights of the old layer that the new one does not have.
        fresh: The weights of the new layer that the old one did not have.
    """

    source: str
    weights: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diff(Tabular):
    """The report of `diff`; prints as tables.

    Attributes:
        shared: Operations in both graphs; for a nested model, those inside it.
        new: Operations that only the new graph has.
        dropped: Operations that only the old graph has.
        shared_parameters: Parameters of the variables that are in both graphs.
        new_parameters: Parameters that only the new graph has.
        dropped_parameters: Parameters that only the old graph has.
        specs: Calls in both whose outputs changed shape or dtype.
        same_outputs: Outputs of the new graph that are computed by the same calls on the same
            inputs as before: they cannot differ.
        other_outputs: Outputs of the new graph downstream of a change: they may differ.
        ties_kept: Variables used by several layers before and now.
        ties_gone: Variables used by several layers before, but not now.
        ties_new: Variables used by several layers now, but not before.
        kept: New layers, by name, that got trained values of an old one (`weights="keep"`).
        training: Calls in the new graph that are recorded with `training=True`, or have it as
            their default: if the model is called without a flag, later calls run in training
            mode too. Edits add none; a donor may have some.
        classes: The class of the old model and that of the new one.
    """

    shared: tuple[Layer, ...]
    new: tuple[Layer, ...]
    dropped: tuple[Layer, ...]
    shared_parameters: int
    new_parameters: int
    dropped_parameters: int
    specs: tuple[SpecChange, ...]
    same_outputs: tuple[str, ...]
    other_outputs: tuple[str, ...]
    ties_kept: tuple[str, ...]
    ties_gone: tuple[str, ...]
    ties_new: tuple[str, ...]
    kept: tuple[tuple[str, Kept], ...] = ()
    training: tuple[str, ...] = ()
    classes: tuple[str, str] = ("Functional", "Functional")

    def tables(self) -> list[Table]:
        """Return the summary, the layers that changed, and the specs that changed."""
        summary = [
            ("shared", len(self.shared), self.shared_parameters),
            ("new", len(self.new), self.new_parameters),
            ("dropped", len(self.dropped), self.dropped_parameters),
        ]
        result: list[Table] = [("", ("", "operations", "params"), summary)]
        if self.classes[0] != self.classes[1]:
            result.append(("", ("class before", "class now"), [self.classes]))
        changed = [("new", x.name, x.kind, x.parameters) for x in self.new]
        changed += [("dropped", x.name, x.kind, x.parameters) for x in self.dropped]
        if changed:
            result.append(("", ("", "operation", "kind", "params"), changed))
        if self.kept:
            rows = [
                (name, k.source, *(", ".join(part) for part in (k.weights, k.dropped, k.fresh)))
                for name, k in self.kept
            ]
            result.append(("", ("new layer", "from", "kept", "dropped", "fresh"), rows))
        if self.specs:
            rows = [(c.name, c.old, c.new) for c in self.specs]
            result.append(("", ("changed spec", "before", "now"), rows))
        ties = [("kept", t) for t in self.ties_kept] + [("gone", t) for t in self.ties_gone]
        ties += [("new", t) for t in self.ties_new]
        if ties:
            result.append(("", ("tie", "variable"), ties))
        if self.training:
            told = "later calls also run so, unless the model is called with training=..."
            result.append(("", ("training=True", ""), [(name, told) for name in self.training]))
        outputs = [(name, "same calls on the same inputs: equal") for name in self.same_outputs]
        outputs += [(name, "downstream of a change: may differ") for name in self.other_outputs]
        result.append(("", ("output", ""), outputs))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""

        def layers(items: Sequence[Layer]) -> list[dict[str, Any]]:
            return [{"name": x.name, "kind": x.kind, "parameters": x.parameters} for x in items]

        return {
            "shared": layers(self.shared),
            "new": layers(self.new),
            "dropped": layers(self.dropped),
            "parameters": {
                "shared": self.shared_parameters,
                "new": self.new_parameters,
                "dropped": self.dropped_parameters,
            },
            "specs": [{"name": c.name, "old": str(c.old), "new": str(c.new)} for c in self.specs],
            "outputs": {"same": list(self.same_outputs), "other": list(self.other_outputs)},
            "ties": {
                "kept": list(self.ties_kept),
                "gone": list(self.ties_gone),
                "new": list(self.ties_new),
            },
            "kept": [{"name": name} | dataclasses.asdict(k) for name, k in self.kept],
            "training": list(self.training),
            "classes": {"old": self.classes[0], "new": self.classes[1]},
        }


def diff(old: Any, new: Any) -> Diff:
    """Report what is shared, new, dropped and changed between two models.

    Operations and variables count as the same if they are the same objects, so a copy shares
    nothing with its original. For each output, the report says whether the same calls on the
    same inputs compute it (then it cannot differ) or whether it is downstream of a change.

    Args:
        old: A Keras model or a `Graph`.
        new: The one to compare it with.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> h = keras.layers.Dense(3, name="h")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2, name="out")(h), name="tiny")
    >>> report = kg.diff(model, kg.extract(model, "h"))
    >>> report.shared_parameters, report.new_parameters, report.dropped_parameters
    (15, 0, 8)
    >>> report.same_outputs
    ('h',)
    """
    old, new = read(old), read(new)
    before, now = _first_calls(old), _first_calls(new)
    old_weights, new_weights = _weights(before), _weights(now)
    same, other = _outputs(old, new)
    old_ties = {id(v.variable): v.name for v in sharing(old).variables}
    new_ties = {id(v.variable): v.name for v in sharing(new).variables}
    return Diff(
        tuple(_layer(n) for key, n in now.items() if key in before),
        tuple(_layer(n) for key, n in now.items() if key not in before),
        tuple(_layer(n) for key, n in before.items() if key not in now),
        sum(size for key, size in new_weights.items() if key in old_weights),
        sum(size for key, size in new_weights.items() if key not in old_weights),
        sum(size for key, size in old_weights.items() if key not in new_weights),
        _specs(old, new),
        same,
        other,
        tuple(name for key, name in new_ties.items() if key in old_ties),
        tuple(name for key, name in old_ties.items() if key not in new_ties),
        tuple(name for key, name in new_ties.items() if key not in old_ties),
        tuple(
            (n.path, record_of(n.operation).kept)
            for key, n in now.items()
            if key not in before and record_of(n.operation).kept is not None
        ),
        tuple(n.path for n in leaves(new.nodes) if _trains(n)),
        (class_of(old), class_of(new)),
    )


def _trains(node: Node) -> bool:
    """Whether a call leaves training mode on for later calls; the outermost flag decides."""
    flags = [call.training for call in (*node.scope, node)]
    said = next((flag for flag in flags if flag is not None), None)
    return leaves_flag(node.operation) if said is None else bool(said)


def _first_calls(graph: Graph) -> dict[int, Node]:
    """Return the first call of each operation, by its `id`; for nested models, the calls inside."""
    found: dict[int, Node] = {}
    for node in leaves(graph.nodes):
        found.setdefault(id(node.operation), node)
    return found


def _weights(calls: dict[int, Node]) -> dict[int, int]:
    return {key: size for n in calls.values() for key, size in weights_of(n.operation).items()}


def _layer(node: Node) -> Layer:
    return Layer(node.path, node.kind, sum(weights_of(node.operation).values()))


def _specs(old: Graph, new: Graph) -> tuple[SpecChange, ...]:
    """Compare each operation's n-th call before with its n-th call now, also in nested models."""

    def values(graph: Graph) -> dict[tuple[int, int, int], Value]:
        seen: dict[int, int] = {}
        result = {}
        for node in everything(graph):
            number = seen[id(node.operation)] = seen.get(id(node.operation), -1) + 1
            for i, value in enumerate(node.values):
                result[id(node.operation), number, i] = value
        return result

    before = values(old)
    return tuple(
        SpecChange(value.path, before[key].spec, value.spec)
        for key, value in values(new).items()
        if key in before and before[key].spec != value.spec
    )


def _outputs(old: Graph, new: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs of `new` that `old` computes too, and those that it does not."""
    numbers: dict[Any, int] = {}
    known = set(_computed(old, numbers).values())
    now = _computed(new, numbers)
    same = [new.label(v) for v in new.outputs if now[v] in known]
    other = [new.label(v) for v in new.outputs if now[v] not in known]
    return tuple(dict.fromkeys(same)), tuple(dict.fromkeys(other))


def _computed(
    graph: Graph,
    numbers: dict[Any, int],
    given: Sequence[int] | None = None,
    training: bool | None = None,
) -> dict[Value, int]:
    """Number the values: equal numbers mean the same calls on the same inputs.

    The calls inside a nested model are numbered, not the call of the model, so inlining or nesting
    changes no number. `training` is the flag of the call of that model: every layer inside gets it.
    """

    def number(key: Any) -> int:
        return numbers.setdefault(key, len(numbers))

    def call(node: Node, reads: list[int]) -> list[int]:
        flag = node.flag(training)
        if node.nested is None:
            kwargs = {k: v for k, v in node.template.kwargs.items() if v is not None}
            if node.trains:
                kwargs["training"] = flag
            called = (id(node.operation), comparable(node.template.args), comparable(kwargs))
            return [number((called, tuple(reads), i)) for i in range(len(node.outputs))]
        entering = []
        for entry in node.entries:
            at = -1 if entry.source is None else reads[entry.source]
            for step in entry.adapt:
                at = number((type(step.operation).__name__, step.outputs[0].spec, at))
            entering.append(at)
        inside = _computed(node.nested, numbers, entering, flag)
        masks = (mask for _, mask in node.unseen)
        return [inside[value] for value in (*node.nested.outputs, *masks)]

    if given is None:
        given = [number(("input", name)) for name in graph.input_names]
    return numbered(graph, given, call)
