"""`Balance`: the stages that a model is cut into, and what each costs, as tables and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_graft.graph.node import Value
from keras_graft.look.costs_report import Cost
from keras_graft.tables import Table, Tabular, counted, in_bytes, shortened

_FEW = 5
WHAT = {
    "flops": "flops (2 for each multiply-add, 1 for each other operation)",
    "bytes": "bytes (of weights, and of the values of one sample)",
    "parameters": "parameters",
}


@dataclass(frozen=True)
class Balanced:
    """One stage.

    Attributes:
        cost: What its calls cost; its name is `stage0`, `stage1`, ...
        amount: What was balanced; each unknown length counts as one.
        share: The amount, as a share of that of the whole model.
        gives: The paths of the values that it hands on to the next stage.
        passed: The bytes of these values, for one sample; each unknown length counts as one.
    """

    cost: Cost
    amount: int
    share: float
    gives: tuple[str, ...]
    passed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the stage as plain data."""
        return {
            **self.cost.to_dict(),
            "amount": self.amount,
            "share": self.share,
            "gives": list(self.gives),
            "passed": self.passed,
        }


class Balance(Tabular, list[tuple[Value, ...]]):
    """The boundaries between stages; prints as a table of the stages.

    As a list it has the boundaries, each a tuple of values: `kg.split` takes it.

    Attributes:
        by: "flops", "bytes" or "parameters".
        stages: The stages.
        shared: Pairs: the name of a layer, the numbers of the stages that use it. Each of these
            stages holds its weights.
        unknown: Pairs of a path and the reason why something is not known there.
    """

    by: str = "flops"
    stages: tuple[Balanced, ...] = ()
    shared: tuple[tuple[str, tuple[int, ...]], ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()

    def tables(self) -> list[Table]:
        """Return the stages as a table, then shared layers, and what is not known."""
        dearest = max(self.stages, key=lambda stage: stage.amount)
        title = (
            f"{counted(len(self.stages), 'stage')}, balanced by {WHAT[self.by]}",
            f"the dearest is {dearest.cost.name}, with {dearest.share:.1%} of the whole",
        )
        columns = ("multiply_adds", "operations", "parameters", "weight_bytes", "activation_bytes")
        head = (
            "stage", "calls", "hands on", "bytes", "multiply-adds", "operations", "params",
            "weights", "values", "share",
        )  # fmt: skip
        rows = [
            (
                s.cost.name, s.cost.kind, shortened(s.gives, 2), in_bytes(s.passed) if s.gives else "",
                *map(s.cost.text, columns), f"{s.share:.1%}",
            )
            for s in self.stages
        ]  # fmt: skip
        result: list[Table] = [(title, head, rows)]
        if self.shared:
            told = [(name, shortened(map(str, stages), 9)) for name, stages in self.shared]
            result.append(("", ("layer of several stages", "stages"), told))
        if self.unknown:
            few = list(self.unknown[:_FEW])
            if len(self.unknown) > _FEW:
                few.append((f"{len(self.unknown) - _FEW} more", ""))
            result.append(("", ("not known, so counted as nothing", "why"), few))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            "by": self.by,
            "boundaries": [list(stage.gives) for stage in self.stages[:-1]],
            "stages": [stage.to_dict() for stage in self.stages],
            "shared": [{"name": name, "stages": list(stages)} for name, stages in self.shared],
            "unknown": [{"name": name, "why": why} for name, why in self.unknown],
        }
