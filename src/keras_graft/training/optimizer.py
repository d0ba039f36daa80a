"""`LearningRates`: an optimizer that gives each weight a learning rate of its own."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.printable import shown
from keras_graft.training.groups import Group, Table, is_number
from keras_graft.training.named import behind
from keras_graft.training.rates import Rates


@keras.saving.register_keras_serializable("keras_graft")
class LearningRates(keras.optimizers.Optimizer):
    """An optimizer in which each weight has its own learning rate: see `kg.learning_rates`.

    One optimizer is inside, with all slots and the number of steps; clipping by the global norm,
    averages of weights and accumulated gradients are its own. Weights with the rate 0 are left out
    of it: they do not move, have no slots, and do not count in the norm.

    `learning_rate` is the largest rate. To set it scales all rates alike, so that callbacks such as
    `ReduceLROnPlateau` and `LearningRateScheduler` work. Rates with a schedule cannot be set.

    Run `import keras_graft` before you load a file that has one.

    Args:
        inner_optimizer: The optimizer.
        table: Which weight has which rate.
        name: The name.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(3, name="d")(x), name="tiny")
    >>> optimizer = kg.learning_rates(model, "adam", {"**/bias": 1e-2, "**": 1e-3})
    >>> round(float(optimizer.learning_rate), 4)  # the largest
    0.01
    """

    def __init__(self, inner_optimizer: Any, table: Any, name: str | None = None) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        # Not tracked by Keras: it refers to the model's variables.
        self.__dict__["table"] = table
        self.__dict__["_rated"] = None
        _keras.count_with(self, inner_optimizer)

    @property
    def keras_graft_inside(self) -> Any:
        """The optimizer inside, for code that looks for slots."""
        return self.inner_optimizer

    def keras_graft_again(self, inner_optimizer: Any) -> LearningRates:
        """Return one with the same rates around another optimizer."""
        return type(self)(inner_optimizer, self.table.copy(), name=self.name)

    def build(self, variables: Any) -> None:
        """Make the slots of the weights that move.

        Raises:
            WeightsError: If a variable has no rate.
        """
        if self.built:
            return
        variables = list(variables)
        groups = [self.table.rows[row].group for row in self.table.found(variables)]
        moved = [v for v, g in zip(variables, groups, strict=True) if self.table.groups[g].moves]
        if not moved:
            raise WeightsError(
                "learning_rates: all trainable weights have the rate 0, so nothing would be trained."
            )
        self.inner_optimizer.build(moved)
        super().build(variables)
        paces = [self.table.groups[g] for g in groups if self.table.groups[g].moves]
        self.__dict__["_rated"] = _keras.Rated(self.inner_optimizer, paces)
        self.__dict__["_moved"] = {behind(v) for v in moved}

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update the weights, each at its own rate."""
        if trainable_variables is None:
            if not self.built:
                raise ValueError("Give `trainable_variables`: the optimizer is not built.")
            trainable_variables = _keras.trained_by(self)
        elif not self.built:
            self.build(trainable_variables)
        pairs = [
            (gradient, variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
            if behind(variable) in self._moved
        ]
        if pairs:
            self.inner_optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])

    def finalize_variable_values(self, var_list: Any) -> None:
        """Set the final values of weights, such as their averages."""
        moved = [v for v in var_list if behind(v) in self._moved]
        self.inner_optimizer.finalize_variable_values(moved)

    @property
    def variables(self) -> Any:
        """The variables of the optimizer inside."""
        return self.inner_optimizer.variables

    @property
    def iterations(self) -> Any:
        """The number of steps."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The largest learning rate now."""
        return self._largest() if self._scheduled else self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if self._scheduled:
            raise WeightsError(
                "learning_rates: rates follow schedules here, so the learning rate cannot be set. To "
                "use such a callback, give numbers as rates."
            )
        number: Any = keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
        if not is_number(number):
            raise WeightsError(
                f"learning_rates: the learning rate is a number here, got {shown(value)}. Give "
                'schedules as rates: kg.learning_rates(model, optimizer, {"**": schedule}).'
            )
        if self._rated is None:
            self.inner_optimizer.learning_rate = float(number)
        else:
            self._rated.set_rate(float(number))

    @property
    def _scheduled(self) -> bool:
        return any(group.scheduled and group.moves for group in self._used())

    def _used(self) -> list[Group]:
        used = {self.table.rows[i].group for i in self.table.order}
        return [g for i, g in enumerate(self.table.groups) if i in used]

    def _now(self, group: Group) -> Any:
        if not group.moves:
            return 0.0
        inner = self.inner_optimizer
        return group.rate(inner.learning_rate, _keras.batches_seen(inner))

    def _largest(self) -> Any:
        rates = [keras.ops.cast(self._now(g), "float32") for g in self._used() if g.moves]
        return keras.ops.max(keras.ops.stack(rates))

    @property
    def rates(self) -> Rates:
        """Which weight has which rate now; prints as tables."""
        rows = [self.table.rows[i] for i in self.table.order]
        now = {i: _rounded(self._now(g)) for i, g in enumerate(self.table.groups)}
        own = self.inner_optimizer.weight_decay
        weights = []
        for row in rows:
            group = self.table.groups[row.group]
            decay = own if group.weight_decay is None else group.weight_decay
            size = math.prod(row.shape)
            weights.append(
                (row.address, size, now[row.group], group.text, decay if group.moves else None)
            )
        return Rates(type(self.inner_optimizer).__name__, tuple(weights))

    @property
    def loss_scale_factor(self) -> Any:
        """The factor of the loss of the optimizer inside."""
        inner = self.__dict__.get("inner_optimizer")
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        if "inner_optimizer" in self.__dict__:
            self.inner_optimizer.loss_scale_factor = value

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Refuse: `weight_decay=` of `kg.learning_rates` says which weights decay."""
        raise WeightsError(
            "learning_rates: say which weights decay when you make the optimizer: "
            'kg.learning_rates(model, optimizer, rates, weight_decay={"**/bias": 0}).'
        )

    def set_weights(self, weights: Any) -> None:
        """Set the variables of the optimizer inside."""
        self.inner_optimizer.set_weights(weights)

    def save_own_variables(self, store: Any) -> None:
        """Save nothing here: the optimizer inside saves its variables."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing here: the optimizer inside loads its variables."""

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            "name": self.name,
            "inner_optimizer": _keras.serialize(self.inner_optimizer),
            "table": self.table.to_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LearningRates:
        """Return the optimizer that a configuration describes."""
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        table = Table.from_config(config["table"], custom_objects)
        return cls(inner, table, name=config.get("name"))


def _rounded(rate: Any) -> float:
    """Return a rate as a number, with the digits that a float32 has."""
    value: Any = keras.ops.convert_to_numpy(rate)
    return float(f"{float(value):.7g}")
