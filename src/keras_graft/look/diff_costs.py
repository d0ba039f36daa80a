"""What the calls of two graphs cost: the totals, and each call whose costs are not the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_graft.costs.formula import Number, at_one
from keras_graft.graph.graph import Graph
from keras_graft.look.costs import costs
from keras_graft.look.costs_report import Cost
from keras_graft.tables import Table

NUMBERS = {
    "multiply_adds": "multiply-adds",
    "operations": "other operations",
    "parameters": "params",
    "weight_bytes": "bytes of weights",
    "activation_bytes": "bytes of values",
}
"""The numbers that are compared, and what they are called in tables."""

_MOST = 10


@dataclass(frozen=True)
class CostChange:
    """A call whose costs changed.

    Attributes:
        name: Its path in the new graph; of one that was dropped, in the old graph.
        old: What it cost; None if it is new.
        new: What it costs now; None if it was dropped.
    """

    name: str
    old: Cost | None
    new: Cost | None


@dataclass(frozen=True)
class CostChanges:
    """What two graphs cost.

    Attributes:
        old: The whole old graph.
        new: The whole new graph.
        parts: The calls whose costs changed, the largest change of multiply-adds first.
    """

    old: Cost
    new: Cost
    parts: tuple[CostChange, ...]

    def change(self, name: str) -> float | None:
        """Return by which share a number changed: -0.5 is half. None where that is not known."""
        return _change(getattr(self.old, name), getattr(self.new, name))

    def tables(self) -> list[Table]:
        """Return the totals as a table, then the calls that changed most; none if nothing did."""
        if not self.parts and all(_same(self.old, self.new, name) for name in NUMBERS):
            return []
        rows = [
            (told, self.old.text(name), self.new.text(name), _text(self.change(name)))
            for name, told in NUMBERS.items()
        ]
        result: list[Table] = [("", ("cost of one sample", "before", "now", "change"), rows)]
        few = self.parts[:_MOST]
        if few:
            title = "" if len(few) == len(self.parts) else (
                f"{len(self.parts):,} calls cost more or less; those with the largest changes:"
            )  # fmt: skip
            head = ("call", "multiply-adds", "now", "params", "now", "values", "now")
            names = ("multiply_adds", "parameters", "activation_bytes")
            parts = [
                (part.name, *("" if cost is None else cost.text(name)
                              for name in names for cost in (part.old, part.new)))
                for part in few
            ]  # fmt: skip
            result.append((title, head, parts))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON; a formula as its text."""
        return {
            "old": _numbers(self.old),
            "new": _numbers(self.new),
            "change": {name: self.change(name) for name in NUMBERS},
            "parts": [
                {
                    "name": part.name,
                    "old": None if part.old is None else _numbers(part.old),
                    "new": None if part.new is None else _numbers(part.new),
                }
                for part in self.parts
            ],
        }


def cost_changes(old: Graph, new: Graph, pairs: Mapping[str, str]) -> CostChanges:
    """Compare what two graphs cost.

    Args:
        old: The graph before.
        new: The graph now.
        pairs: For a call of `new`, by its path, the call of `old` that it belongs to.
    """
    before, now = costs(old, depth=None), costs(new, depth=None)
    mine = {row.name: row for row in before.rows}
    parts = []
    for row in now.rows:
        was = mine.pop(pairs.get(row.name, ""), None)
        if was is None or not all(_same(was, row, name) for name in NUMBERS):
            parts.append(CostChange(row.name, was, row))
    parts += [CostChange(name, row, None) for name, row in mine.items()]
    parts = [part for part in parts if part.old or _costs_something(part.new)]
    parts = [part for part in parts if part.new or _costs_something(part.old)]
    return CostChanges(before.total, now.total, tuple(sorted(parts, key=_rank)))


def _same(old: Cost, new: Cost, name: str) -> bool:
    return getattr(old, name) == getattr(new, name) and (name in old.at_least) == (
        name in new.at_least
    )


def _costs_something(cost: Cost | None) -> bool:
    return cost is not None and any(getattr(cost, name) != 0 for name in NUMBERS)


def _rank(part: CostChange) -> tuple[int, int, int]:
    """Return the order of parts: by the change of multiply-adds, parameters, bytes of values."""
    first, second, third = (
        abs(_one(part.new, name) - _one(part.old, name))
        for name in ("multiply_adds", "parameters", "activation_bytes")
    )
    return -first, -second, -third


def _one(cost: Cost | None, name: str) -> int:
    return 0 if cost is None else at_one(getattr(cost, name) or 0)


def _change(old: Number | None, new: Number | None) -> float | None:
    if old is None or new is None:
        return None
    before, now = at_one(old), at_one(new)
    if before == now:
        return 0.0
    return now / before - 1 if before else None


def _text(change: float | None) -> str:
    return "" if change is None else "none" if change == 0 else f"{change:+.1%}"


def _numbers(cost: Cost) -> dict[str, Any]:
    data = cost.to_dict()
    return {name: data[name] for name in (*NUMBERS, "at_least")}
