"""`sharing`: shared layers, shared variables and tied weights of a model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import count_parameters, variable_behind
from keras_graft.graph.record import ties_of
from keras_graft.graph.select import everything, tied
from keras_graft.model.verb import question
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class SharedOperation:
    """An operation that is called more than once.

    Attributes:
        operation: The layer, op or nested model.
        calls: The path of each call.
        parameters: How many it has, counted once.
    """

    operation: Any = field(repr=False)
    calls: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class SharedVariable:
    """A variable that more than one operation uses: a tie.

    Attributes:
        variable: The variable.
        name: Its path in Keras (`variable.path`).
        users: The path of the first call of each operation that uses it.
        parameters: Its size.
    """

    variable: Any = field(repr=False)
    name: str
    users: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class TiedWeight:
    """A weight that is computed from a variable of another layer: see `kg.tie`.

    Attributes:
        target: The weight, `"lm_head/kernel"`.
        source: The weight it is tied to, by its name in the last model that had both.
        transform: The name of the transform that computes it, such as `"transpose"`, or None.
        here: Whether the source's layer is in this model. If not, this layer holds the variable.
    """

    target: str
    source: str
    transform: str | None
    here: bool


@dataclass(frozen=True, repr=False)
class Sharing(Tabular):
    """The sharing report of a model; prints as tables.

    Attributes:
        operations: The operations that are called more than once, in graph order.
        variables: The variables that more than one operation uses, in graph order.
        ties: The weights that are tied, in graph order.

    >>> import keras, keras_graft as kg
    >>> x, layer = keras.Input((4,), name="x"), keras.layers.Dense(4, name="d")
    >>> report = kg.sharing(keras.Model(x, layer(layer(x))))
    >>> [(shared.calls, shared.parameters) for shared in report.operations]
    [(('d#0', 'd#1'), 20)]
    """

    operations: tuple[SharedOperation, ...]
    variables: tuple[SharedVariable, ...]
    ties: tuple[TiedWeight, ...] = ()

    def tables(self) -> list[Table]:
        """Return a table of operations, one of variables, and one of ties if there are any."""
        operations = [(o.calls[0], len(o.calls), o.parameters) for o in self.operations]
        variables = [(v.name, ", ".join(v.users), v.parameters) for v in self.variables]
        ties = [
            (
                t.target,
                t.source,
                t.transform or "",
                "" if t.here else "not in this model: held here",
            )
            for t in self.ties
        ]
        title = _count(len(ties), "weight is", "weights are") + " tied"
        more: list[Table] = [(title, ("weight", "tied to", "transform", ""), ties)] if ties else []
        return [
            (
                _count(len(operations), "operation is", "operations are")
                + " called more than once",
                ("first call", "calls", "params"),
                operations,
            ),
            (
                _count(len(variables), "variable is", "variables are") + " used by several layers",
                ("variable", "used by", "params"),
                variables,
            ),
            *more,
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            "operations": [
                {"calls": list(o.calls), "parameters": o.parameters} for o in self.operations
            ],
            "variables": [
                {"name": v.name, "used_by": list(v.users), "parameters": v.parameters}
                for v in self.variables
            ],
            "ties": [dataclasses.asdict(t) for t in self.ties],
        }


@question
def sharing(graph: Graph) -> Sharing:
    """Report which operations are called more than once, and which variables several layers use.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> layer = keras.layers.Dense(4, name="d")
    >>> print(kg.sharing(keras.Model(x, layer(layer(x)))))
    1 operation is called more than once
    first call  calls  params
    d#0             2      20
    <BLANKLINE>
    no variable is used by several layers
    """
    calls: dict[int, dict[tuple[int, str], Node]] = {}
    users: dict[int, dict[int, Node]] = {}
    variables: dict[int, Any] = {}
    for node in everything(graph):
        # Every call of one nested model contains the same inner calls: count these once.
        level = id(node.scope[-1].operation) if node.scope else 0
        calls.setdefault(id(node.operation), {}).setdefault((level, node.label), node)
        if node.nested is None:
            for variable in map(variable_behind, getattr(node.operation, "weights", ())):
                variables[id(variable)] = variable
                users.setdefault(id(variable), {}).setdefault(id(node.operation), node)
    operations = tuple(
        SharedOperation(
            first.operation,
            tuple(n.path for n in found.values()),
            count_parameters([first.operation]),
        )
        for found in calls.values()
        if len(found) > 1
        for first in [next(iter(found.values()))]
    )
    variables_ = tuple(
        SharedVariable(
            variables[key], str(getattr(variables[key], "path", "variable")),
            tuple(n.path for n in found.values()), math.prod(variables[key].shape),
        )
        for key, found in users.items() if len(found) > 1
    )  # fmt: skip
    return Sharing(operations, variables_, _ties(graph, users))


def _ties(graph: Graph, users: dict[int, dict[int, Node]]) -> tuple[TiedWeight, ...]:
    found: dict[tuple[int, str], TiedWeight] = {}
    for node in tied(graph):
        for tie in ties_of(node.operation):
            owners = [
                user
                for user in users.get(id(tie.source), {}).values()
                if all(t.inside or t.source is not tie.source for t in ties_of(user.operation))
            ]
            path = "/".join([*(n.name for n in node.scope), node.name])
            source = tie.source_name
            if owners:
                owner = "/".join([*(n.name for n in owners[0].scope), owners[0].name])
                source = f"{owner}/{tie.source_weight}"
            found.setdefault(
                (id(node.operation), tie.weight),
                TiedWeight(f"{path}/{tie.weight}", source, tie.transform, bool(owners)),
            )
    return tuple(found.values())


def _count(number: int, one: str, many: str) -> str:
    return f"{number or 'no'} {one if number in (0, 1) else many}"
