"""Which weight is trained at which rate: groups of weights, as a value that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.training.named import behind

Schedule = keras.optimizers.schedules.LearningRateSchedule


@dataclass(eq=False)
class Group:
    """The weights of one learning rate and one weight decay.

    Attributes:
        base: The rate, or its schedule.
        factor: What it is multiplied with: the layer-wise decay.
        weight_decay: The weight decay; None for the optimizer's own.
        share: For a number: the rate as a multiple of the optimizer's own rate.
    """

    base: Any
    factor: float = 1.0
    weight_decay: float | None = None
    share: float = 0.0

    @property
    def scheduled(self) -> bool:
        """Whether the rate follows a schedule."""
        return isinstance(self.base, Schedule)

    @property
    def moves(self) -> bool:
        """Whether its weights are trained: a rate of 0 leaves them as they are."""
        return self.factor > 0 and (self.scheduled or self.base > 0)

    @property
    def text(self) -> str:
        """How the rate is given."""
        base = type(self.base).__name__ if self.scheduled else f"{self.base:.4g}"
        return base if self.factor == 1 else f"{base} x {self.factor:.4g}"

    def rate(self, reference: Any, iterations: Any) -> Any:
        """Return the rate now."""
        if self.scheduled:
            return self.base(iterations) * self.factor
        return reference if self.share == 1 else reference * self.share


@dataclass(eq=False)
class Row:
    """One weight, and its group.

    Attributes:
        address: Its address in the model.
        path: The path of its variable.
        shape: Its shape.
        group: The number of its group; None if no selector names it.
        key: The identity of its variable; None until an optimizer from a file is built.
    """

    address: str
    path: str
    shape: tuple[int, ...]
    group: int | None
    key: int | None = None
    held: Any = field(default=None, repr=False)


class Table:
    """Which weight is in which group.

    Args:
        groups: The groups.
        rows: The weights.
        order: The rows of the trainable variables, in the model's order.
        reference: The largest rate that is a number, None if there is none.
    """

    def __init__(
        self, groups: list[Group], rows: list[Row], order: list[int], reference: float | None
    ) -> None:
        self.groups, self.rows, self.order, self.reference = groups, rows, order, reference
        for group in groups:
            if not group.scheduled and reference:
                group.share = group.base * group.factor / reference

    def found(self, variables: Sequence[Any]) -> list[int]:
        """Return the rows of variables that an optimizer is built for.

        A variable is known by identity; in an optimizer from a file by its place, or by its path
        and shape.

        Raises:
            WeightsError: If a variable has no rate.
        """
        known = {row.key: i for i, row in enumerate(self.rows) if row.key is not None}
        shapes = [tuple(v.shape) for v in variables]
        in_order = not known and shapes == [self.rows[i].shape for i in self.order]
        rows: list[int] = []
        lost: list[Any] = []
        for place, variable in enumerate(variables):
            row = known.get(behind(variable), self.order[place] if in_order else None)
            row = self._by_path(variable) if row is None else row
            if row is None or self.rows[row].group is None:
                lost.append(variable)
            else:
                rows.append(row)
        if lost:
            raise WeightsError(
                f"learning_rates: {listed(v.path for v in lost)} would be trained, and no selector "
                "of rates= names them. Make an optimizer for this model, and compile with it: "
                "kg.learning_rates(model, optimizer, rates)."
            )
        for row, variable in zip(rows, variables, strict=True):
            self.rows[row].key, self.rows[row].held = behind(variable), variable
        self.order = rows
        return rows

    def _by_path(self, variable: Any) -> int | None:
        found = [
            i
            for i, row in enumerate(self.rows)
            if row.key is None and (row.path, row.shape) == (variable.path, tuple(variable.shape))
        ]
        same = {self.rows[i].group for i in found}
        return found[0] if len(same) == 1 else None

    def copy(self) -> Table:
        """Return a table of the same weights for another optimizer."""
        groups = [Group(g.base, g.factor, g.weight_decay) for g in self.groups]
        rows = [Row(r.address, r.path, r.shape, r.group, r.key, r.held) for r in self.rows]
        return Table(groups, rows, list(self.order), self.reference)

    def to_config(self) -> dict[str, Any]:
        """Return the table as plain data."""
        return {
            "groups": [
                {
                    "rate": _keras.serialize(g.base) if g.scheduled else g.base,
                    "factor": g.factor,
                    "weight_decay": g.weight_decay,
                }
                for g in self.groups
            ],
            "weights": [[r.address, r.path, list(r.shape), r.group] for r in self.rows],
            "order": list(self.order),
            "reference": self.reference,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Table:
        """Return the table that plain data describes."""
        groups = [
            Group(
                keras.saving.deserialize_keras_object(g["rate"], custom_objects=custom_objects)
                if isinstance(g["rate"], Mapping)
                else float(g["rate"]),
                float(g["factor"]),
                g["weight_decay"],
            )
            for g in config["groups"]
        ]
        rows = [
            Row(str(address), str(path), tuple(map(int, shape)), group)
            for address, path, shape, group in config["weights"]
        ]
        if not all(r.group is None or 0 <= r.group < len(groups) for r in rows) or not all(
            0 <= i < len(rows) for i in config["order"]
        ):
            raise WeightsError(
                "LearningRates: the configuration names a group that it does not hold."
            )
        return cls(groups, rows, list(config["order"]), config["reference"])


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that is not negative."""
    try:
        return not isinstance(value, bool | str) and 0 <= float(value) < float("inf")
    except (TypeError, ValueError, OverflowError):
        return False
