"""The steps of `prune_and_tune`: how far a step prunes, and what is reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras

import keras_graft as kg
from keras_graft.tables import Table, Tabular


@dataclass(frozen=True)
class Tuned:
    """One step.

    Attributes:
        multiply_adds: Those of the network after it, as `kg.costs` says.
        parameters: Their number.
        pruned: The loss and metrics before training; those of the donor in the first row.
        tuned: Those after training.
    """

    multiply_adds: int
    parameters: int
    pruned: dict[str, float]
    tuned: dict[str, float]


@dataclass(frozen=True, repr=False)
class PrunedAndTuned(Tabular):
    """What `prune_and_tune` gives; prints as a table.

    Attributes:
        model: The smaller model, compiled.
        steps: The donor, and what each step gave.
        fresh: Why the optimizer started fresh in a step; empty if its state was always carried.
    """

    model: Any = field(repr=False)
    steps: tuple[Tuned, ...]
    fresh: str = ""

    def tables(self) -> list[Table]:
        """Return one line for each step."""
        first, last = self.steps[0], self.steps[-1]
        title = [f"{last.multiply_adds / first.multiply_adds:.1%} of the multiply-adds"]
        title += [f"the optimizer starts fresh: {self.fresh}"] if self.fresh else []
        names = list(first.tuned)
        rows = [
            (
                str(i) if i else "donor", f"{s.multiply_adds:,}", f"{s.parameters:,}",
                *(f"{part[n]:.4f}" for n in names for part in (s.pruned, s.tuned)),
            )
            for i, s in enumerate(self.steps)
        ]  # fmt: skip
        heads = [f"{n}{end}" for n in names for end in (" pruned", " tuned")]
        return [(tuple(title), ("step", "multiply-adds", "parameters", *heads), rows)]


def compiled_copy(model: Any, optimizer: Any, loss: Any, metrics: Any) -> Any:
    """Return a copy that trains as the model did, or as the arguments say."""
    copy = kg.clone(model)
    known = (
        keras.saving.deserialize_keras_object(model.get_compile_config()) if model.compiled else {}
    )
    given = {"optimizer": optimizer, "loss": loss, "metrics": metrics}
    if isinstance(optimizer, keras.optimizers.Optimizer):  # the caller's own stays unused
        given["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    given = {key: value for key, value in given.items() if value is not None}
    copy.compile(**{"optimizer": "adam", **known, **given})
    if model.compiled and optimizer is None and model.optimizer.built:
        kg.carry_optimizer(model, copy, match="name")
    return copy


def until(graph: Any, pruned: Any, cost: Any, wanted: float) -> Any:
    """Return a graph pruned by the fraction that gives the largest cost up to a number."""
    now = cost(graph)
    if now <= wanted:  # the step before went so far
        return graph
    low, high = 0.0, 1.0
    fraction, best, least = 1 - (wanted / now) ** 0.5, (0, None), now
    for _ in range(10):
        graph = pruned(fraction)
        found = cost(graph)
        least = min(found, least)
        if found > wanted:
            low = fraction
        else:
            high = fraction
            best = max(best, (found, graph), key=lambda pair: pair[0])
            if found >= 0.98 * wanted:
                break
        fraction = (low + high) / 2
    if best[1] is None:
        raise kg.EditError(
            f"prune_and_tune: with what can be pruned, {least:,} multiply-adds stay, more than the "
            f"{round(wanted):,} that this step wants. Give a larger target=, or select more layers=."
        )
    return best[1]
