"""`list_adapters`: the adapters of a model, and how many parameters train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras_graft.adapters.state import Adapter, is_frozen, path_of, states_of, weighted
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Node
from keras_graft.graph.parameters import variable_behind
from keras_graft.model.verb import question
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class AdapterRow:
    """One adapter on one weight.

    Attributes:
        adapter: Its name.
        weight: The address of the weight.
        rank: Its rank.
        alpha: The product of its factors is scaled by `alpha / rank`.
        parameters: The number of its parameters.
        active: Whether it adds to the weight.
        trains: Whether it is trained.
        merged: Whether it is part of the weight itself.
    """

    adapter: str
    weight: str
    rank: int
    alpha: float
    parameters: int
    active: bool
    trains: bool
    merged: bool


@dataclass(frozen=True, repr=False)
class Adapters(Tabular):
    """The adapters of a model.

    Attributes:
        model: The name of the model.
        rows: One for each adapter on each weight.
        trainable: The number of parameters that train.
        parameters: The number of all parameters, those of adapters included.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> report = kg.list_adapters(kg.lora(model, "d", rank=2))
    >>> report.names, report.trainable, report.parameters
    (['default'], 14, 29)
    """

    model: str
    rows: tuple[AdapterRow, ...]
    trainable: int
    parameters: int

    @property
    def names(self) -> list[str]:
        """The names of the adapters."""
        return list(dict.fromkeys(row.adapter for row in self.rows))

    def tables(self) -> list[Table]:
        """Return the table, with the numbers of parameters in its title."""
        share = 100 * self.trainable / max(1, self.parameters)
        title = (
            f"{self.model}: {self.trainable:,} of {self.parameters:,} parameters train "
            f"({share:{'.0f' if share >= 10 else '.2g'}}%)"
        )
        rows = [
            (row.weight, row.adapter, row.rank, f"{row.alpha:g}", row.parameters, _state(row))
            for row in self.rows
        ]
        return [(title, ("weight", "adapter", "rank", "alpha", "parameters", "state"), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the same as data."""
        return {**vars(self), "rows": [vars(row) for row in self.rows]}


def _state(row: AdapterRow) -> str:
    if row.merged:
        return "merged"
    return ("trains" if row.trains else "active") if row.active else "off"


@question
def list_adapters(graph: Graph) -> Adapters:
    """Return the adapters of a model, and how many of its parameters train.

    Args:
        model: A Keras model or a `Graph`.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")], name="m")
    >>> print(kg.list_adapters(kg.lora(model, "d", rank=2)))
    m: 14 of 29 parameters train (48%)
    weight    adapter  rank  alpha  parameters  state
    d/kernel  default     2      2          14  trains
    """
    rows = []
    seen: dict[int, int] = {}
    trained: dict[int, int] = {}
    for node in weighted(graph):
        operation = node.operation
        seen.update((id(variable_behind(v)), math.prod(v.shape)) for v in operation.weights)
        trained.update((id(v), math.prod(v.shape)) for v in operation.trainable_variables)
    for node, state in states_of(graph):
        for merged, adapters in ((False, state.adapters), (True, state.merged)):
            rows += [_row(node, adapter, merged) for adapter in adapters]
    trainable = sum(trained.values()) if graph.trainable else 0
    return Adapters(graph.name, tuple(rows), trainable, sum(seen.values()))


def _row(node: Node, adapter: Adapter, merged: bool) -> AdapterRow:
    trains = adapter.trains and not merged and not is_frozen(node)
    return AdapterRow(
        adapter.name, f"{path_of(node)}/{adapter.weight}", adapter.rank, adapter.alpha,
        adapter.size, adapter.active and not merged, trains, merged,
    )  # fmt: skip
