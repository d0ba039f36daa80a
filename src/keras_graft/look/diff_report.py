"""`Diff`: what two models share, what is new, dropped or changed, and where."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_graft.graph.node import Spec
from keras_graft.look.changes import Changes
from keras_graft.look.diff_costs import CostChanges, cost_changes
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Layer:
    """One operation in a report.

    Attributes:
        name: The path of its first call.
        kind: Its class.
        parameters: How many it has.
        where: Its neighbours: `"between a and b"`.
    """

    name: str
    kind: str
    parameters: int
    where: str = ""


@dataclass(frozen=True)
class Changed:
    """A call that is in both graphs, and is not the same.

    Attributes:
        name: Its path in the new graph.
        kind: The class of its operation.
        what: What changed: its output, its arguments, what it reads, its configuration, its
            weights with the largest difference.
    """

    name: str
    kind: str
    what: str


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


@dataclass(frozen=True, repr=False)
class Diff(Tabular):
    """The report of `diff`; prints as tables.

    Attributes:
        shared: Operations in both graphs; for a nested model, those inside it.
        new: Operations that only the new graph has, each with its neighbours.
        dropped: Operations that only the old graph has, each with its neighbours there.
        changed: Calls in both graphs that are not the same, and what changed.
        shared_parameters: Parameters of the variables that are in both graphs. By value: of those
            that have equal values.
        new_parameters: Parameters that only the new graph has.
        dropped_parameters: Parameters that only the old graph has.
        changed_parameters: By value: parameters of the variables that have other values now.
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
        order: Whether the same inputs or outputs are in another order, or have other keys.
        by: "identity" or "value": how operations and variables were compared.
        renamed: By value: pairs (name before, name now) of operations with another name.
        unclear: By value: operations that could belong to several of the old graph, as neither
            their names nor their places tell. They were paired in the order of the graphs.
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
    changed: tuple[Changed, ...] = ()
    changed_parameters: int = 0
    order: tuple[str, ...] = ()
    by: str = "identity"
    renamed: tuple[tuple[str, str], ...] = ()
    unclear: tuple[str, ...] = ()
    _changes: Changes | None = dataclasses.field(default=None, compare=False)

    def changes(self) -> Changes:
        """Return both graphs, and for each of their calls whether it was kept; for pictures."""
        assert self._changes is not None
        return self._changes

    @functools.cached_property
    def costs(self) -> CostChanges:
        """What both graphs cost, and each call whose costs changed; counted when first asked for."""
        found = self.changes()
        return cost_changes(found.old, found.new, found.pairs)

    def tables(self) -> list[Table]:
        """Return the summary, and what is new, dropped and changed, with its place."""
        summary = [
            ("shared", len(self.shared), self.shared_parameters),
            ("new", len(self.new), self.new_parameters),
            ("dropped", len(self.dropped), self.dropped_parameters),
        ]
        if self.by == "value":
            count = len({row.name.partition("#")[0] for row in self.changed})
            summary.insert(1, ("changed", count, self.changed_parameters))
        result: list[Table] = [("", ("", "operations", "params"), summary)]
        if self.classes[0] != self.classes[1]:
            result.append(("", ("class before", "class now"), [self.classes]))
        rows = [("new", x.name, x.kind, x.parameters, x.where) for x in self.new]
        rows += [("dropped", x.name, x.kind, x.parameters, x.where) for x in self.dropped]
        if rows:
            result.append(("", ("", "operation", "kind", "params", "where"), rows))
        if self.changed:
            what = [(c.name, c.kind, c.what) for c in self.changed]
            result.append(("", ("changed", "kind", "what"), what))
        if self.renamed:
            result.append(("", ("name before", "name now"), self.renamed))
        if self.unclear:
            told = "several old operations fit: paired in the order of the graphs"
            result.append(("", ("unclear", ""), [(name, told) for name in self.unclear]))
        if self.kept:
            kept = [
                (name, k.source, *(", ".join(part) for part in (k.weights, k.dropped, k.fresh)))
                for name, k in self.kept
            ]
            result.append(("", ("new layer", "from", "kept", "dropped", "fresh"), kept))
        ties = [("kept", t) for t in self.ties_kept] + [("gone", t) for t in self.ties_gone]
        ties += [("new", t) for t in self.ties_new]
        if ties:
            result.append(("", ("tie", "variable"), ties))
        if self.training:
            told = "later calls also run so, unless the model is called with training=..."
            result.append(("", ("training=True", ""), [(name, told) for name in self.training]))
        if self._changes is not None:
            result += self.costs.tables()
        result.append((self.order, ("output", ""), self._outputs()))
        return result

    def _outputs(self) -> list[tuple[str, str]]:
        equal = "same calls on the same inputs"
        equal += ", with equal weights: equal" if self.by == "value" else ": equal"
        rows = [(name, equal) for name in self.same_outputs]
        return rows + [(name, "downstream of a change: may differ") for name in self.other_outputs]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""

        def layers(items: Sequence[Layer], where: bool = True) -> list[dict[str, Any]]:
            rows = [{"name": x.name, "kind": x.kind, "parameters": x.parameters} for x in items]
            return [
                row | ({"where": x.where} if where else {})
                for row, x in zip(rows, items, strict=True)
            ]

        return {
            "by": self.by,
            "shared": layers(self.shared, where=False),
            "new": layers(self.new),
            "dropped": layers(self.dropped),
            "changed": [dataclasses.asdict(c) for c in self.changed],
            "parameters": {
                "shared": self.shared_parameters,
                "changed": self.changed_parameters,
                "new": self.new_parameters,
                "dropped": self.dropped_parameters,
            },
            "specs": [{"name": c.name, "old": str(c.old), "new": str(c.new)} for c in self.specs],
            "outputs": {"same": list(self.same_outputs), "other": list(self.other_outputs)},
            "order": list(self.order),
            "ties": {
                "kept": list(self.ties_kept),
                "gone": list(self.ties_gone),
                "new": list(self.ties_new),
            },
            "kept": [{"name": name} | dataclasses.asdict(k) for name, k in self.kept],
            "training": list(self.training),
            "classes": {"old": self.classes[0], "new": self.classes[1]},
            "renamed": [{"old": old, "new": new} for old, new in self.renamed],
            "unclear": list(self.unclear),
            "costs": None if self._changes is None else self.costs.to_dict(),
        }
