"""`Cost` and `Costs`: what calls, blocks, stages and cuts cost, as tables and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_graft import advice
from keras_graft.costs.formula import Number, at_one
from keras_graft.tables import Table, Tabular, counted, in_bytes

MOST = 20
"""How many rows are printed."""
_FEW = 5


@dataclass(frozen=True)
class Cost:
    """What one row of the report costs.

    A number is an int; where lengths are unknown, a formula of them, whose text is such as
    `64 x length`; None where it is not known at all.

    Attributes:
        name: The path of the call, or the name of the block, stage or cut.
        kind: The class of the layer or op; of a block, how many calls it has.
        output: Shape and dtype of what it gives.
        multiply_adds: Multiplications of matrix products and convolutions, each with its addition.
        operations: Everything else that is computed: additions, comparisons, functions.
        padding: How many of the multiply-adds only multiply zeros that padding adds.
        parameters: Parameters, each variable once.
        weight_bytes: The bytes of these variables.
        activation_bytes: The bytes of the values that its calls give.
        share: Its share of all multiply-adds that are known, each unknown length as one; None if its
            own are not known.
        at_least: Which of the numbers are lower bounds: a part of the row is not known.
    """

    name: str
    kind: str
    output: str
    multiply_adds: Number | None
    operations: Number | None
    padding: Number
    parameters: int
    weight_bytes: int
    activation_bytes: Number | None
    share: float | None
    at_least: tuple[str, ...] = ()

    @property
    def flops(self) -> Number | None:
        """Two for each multiply-add, and one for each operation; None if one is not known."""
        if self.multiply_adds is None or self.operations is None:
            return None
        return 2 * self.multiply_adds + self.operations

    def text(self, name: str) -> str:
        """Return a number as text: `1,024`, `at least 1,024`, `64 x length`, `?`."""
        number = getattr(self, name)
        if number is None:
            return "?"
        if name.endswith("bytes") and isinstance(number, int):
            text = in_bytes(number)
        else:
            text = f"{number:,}" if isinstance(number, int) else str(number)
        return f"at least {text}" if name in self.at_least else text

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data; a formula as its text."""
        plain = lambda n: n if n is None or isinstance(n, int) else str(n)  # noqa: E731
        return {
            "name": self.name,
            "kind": self.kind,
            "output": self.output,
            "multiply_adds": plain(self.multiply_adds),
            "operations": plain(self.operations),
            "padding": plain(self.padding),
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": plain(self.activation_bytes),
            "share": self.share,
            "at_least": list(self.at_least),
        }


@dataclass(frozen=True, repr=False)
class Costs(Tabular):
    """The report of `costs`; prints as a table.

    Attributes:
        total: The whole model.
        rows: A `Cost` for each call, block, stage or cut.
        by: "node", "block", "stage" or "cut".
        batch: For how many samples.
        unknown: Pairs of a path and the reason why something is not known there.
        most: How many rows are printed; None: all.
    """

    total: Cost
    rows: tuple[Cost, ...]
    by: str = "node"
    batch: int = 1
    unknown: tuple[tuple[str, str], ...] = ()
    most: int | None = field(default=MOST, compare=False)

    def __getitem__(self, name: str) -> Cost:
        """Return the row of this name.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def tables(self) -> list[Table]:
        """Return the rows as a table, under a summary; then what is not known."""
        total = self.total
        samples = "" if self.batch == 1 else f", for {counted(self.batch, 'sample')}"
        title = [
            f"{total.name}: {total.text('multiply_adds')} multiply-adds, "
            f"{total.text('operations')} other operations{samples}",
            f"{counted(total.parameters, 'parameter')} in {in_bytes(total.weight_bytes)}, "
            f"values in {total.text('activation_bytes')}",
        ]
        chosen = self._chosen()
        if len(chosen) < len(self.rows):
            what = {"node": "calls", "block": "blocks", "stage": "stages", "cut": "cuts"}[self.by]
            title.append(
                f"{len(self.rows):,} {what}; {len(chosen)} {_WHICH[self.by == 'cut']} "
                f"(all: {advice.option('most', None)})"
            )
        head = _HEADS[self.by]
        columns = ("multiply_adds", "operations", "parameters", "weight_bytes", "activation_bytes")
        rows = [
            (row.name, row.kind, row.output, *map(row.text, columns), _share(row)) for row in chosen
        ]
        result: list[Table] = [(tuple(title), head, rows)]
        if self.unknown:
            few: list[Sequence[object]] = list(self.unknown[:_FEW])
            if len(self.unknown) > _FEW:
                few.append((f"{len(self.unknown) - _FEW} more", ""))
            result.append(("", ("not known", "why"), few))
        return result

    def _chosen(self) -> list[Cost]:
        """Return the rows to print, in their order."""
        if self.most is None or len(self.rows) <= self.most:
            return list(self.rows)
        if self.by == "cut":  # evenly, and the whole
            step = len(self.rows) / self.most
            return [self.rows[int((i + 1) * step) - 1] for i in range(self.most)]
        ranks = sorted(range(len(self.rows)), key=lambda i: (-_rank(self.rows[i]), i))
        return [self.rows[i] for i in sorted(ranks[: self.most])]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            "by": self.by,
            "batch": self.batch,
            "total": self.total.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
            "unknown": [{"name": name, "why": why} for name, why in self.unknown],
        }


_NUMBERS = ("multiply-adds", "operations", "params", "weights", "values", "share")
_WHICH = ("with the most multiply-adds", "at even distances")
_HEADS = {
    "node": ("node", "kind", "output", *_NUMBERS),
    "block": ("block", "calls", "last output", *_NUMBERS),
    "stage": ("stage", "calls", "last output", *_NUMBERS),
    "cut": ("up to", "calls", "output", *_NUMBERS),
}


def _rank(row: Cost) -> float:
    """Return how early a row is printed; what is not known comes first."""
    return float("inf") if row.multiply_adds is None else float(at_one(row.multiply_adds))


def _share(row: Cost) -> str:
    return "?" if row.share is None else f"{row.share:.1%}"
