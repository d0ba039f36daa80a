"""The report of `carry_optimizer`: which weights kept their optimizer slots."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from keras_graft.tables import Table, Tabular, counted


@dataclass(frozen=True, repr=False)
class Carried(Tabular):
    """The report of `carry_optimizer`; prints as tables.

    Attributes:
        optimizer: The class of the optimizer.
        steps: How many steps it has made.
        slots: What was copied for each variable: `("momentum", "velocity")`.
        begins: What the old optimizer did not hold: it starts fresh for all weights.
        gone: What the new optimizer does not hold.
        taken: Weights of the new model that got slots, each with the weight of the old model
            that had them.
        new: Weights of the new model whose slots start fresh.
        dropped: Weights of the old model whose slots are dropped.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    >>> edited = kg.insert(model, keras.layers.Dropout(0.1), after="d")
    >>> report = kg.carry_optimizer(model, edited)
    >>> report.optimizer, report.steps
    ('SGD', 1)
    """

    optimizer: str
    steps: int
    slots: tuple[str, ...]
    begins: tuple[str, ...]
    gone: tuple[str, ...]
    taken: tuple[tuple[str, str], ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Return a summary, and the weights that are new, dropped, or have other names."""
        title = (
            f"{self.optimizer} after {counted(int(self.steps), 'step')}; for each weight: "
            f"{', '.join(self.slots) or 'nothing'}"
        )
        for what, names in (("starts fresh for all", self.begins), ("gone", self.gone)):
            if names:
                title += f"; {what}: {', '.join(names)}"
        parts = {"took slots": self.taken, "new": self.new, "dropped": self.dropped}
        result: list[Table] = [(title, ("", "weights"), [(k, len(v)) for k, v in parts.items()])]
        rows = [(name, f"from {old}") for name, old in self.taken if name != old]
        rows += [(name, "new: starts fresh") for name in self.new]
        rows += [(name, "dropped") for name in self.dropped]
        if rows:
            result.append(("", ("weight", "slots"), rows))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        plain = asdict(self)
        plain["taken"] = [list(pair) for pair in self.taken]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
