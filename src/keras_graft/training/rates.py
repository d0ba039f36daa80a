"""`Rates`: which weight has which learning rate and weight decay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from keras_graft.tables import Table, Tabular


@dataclass(frozen=True, repr=False)
class Rates(Tabular):
    """The learning rates of a model's weights; prints as tables.

    Attributes:
        optimizer: The class of the optimizer.
        weights: For each weight its address, its number of parameters, its learning rate now, how
            the rate is given, and its weight decay (None: the optimizer decays nothing).

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> rates = kg.learning_rates(model, "adam", {"**/bias": 1e-2, "**": 1e-3}).rates
    >>> [(address, rate) for address, _, rate, _, _ in rates.weights]
    [('d/kernel', 0.001), ('d/bias', 0.01)]
    """

    optimizer: str
    weights: tuple[tuple[str, int, float, str, float | None], ...]

    def tables(self) -> list[Table]:
        """Return one line for each rate, and one for each weight."""
        same: dict[tuple[float, str, float | None], list[int]] = {}
        for _, size, rate, text, decay in self.weights:
            same.setdefault((rate, text, decay), []).append(size)
        decays = any(decay for *_, decay in self.weights)
        rows = [
            (_short(rate), text, *([_decay(decay)] if decays else []), len(sizes), sum(sizes))
            for (rate, text, decay), sizes in sorted(same.items(), key=lambda item: -item[0][0])
        ]
        more = ("weight decay",) if decays else ()
        head = ("rate", "given as", *more, "weights", "parameters")
        each = [
            (name, _short(rate), *([_decay(decay)] if decays else []))
            for name, _, rate, _, decay in self.weights
        ]
        return [(self.optimizer, head, rows), ("", ("weight", "rate", *more), each)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self) | {"weights": [list(row) for row in self.weights]}


def _short(rate: float) -> str:
    return f"{rate:.4g}"


def _decay(decay: float | None) -> str:
    return f"{decay or 0:.4g}"
