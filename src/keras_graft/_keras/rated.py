"""Keras's private state of a step: each variable at its own learning rate and weight decay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras


class Pace(Protocol):
    """The learning rate and weight decay of some variables."""

    @property
    def weight_decay(self) -> float | None:
        """The weight decay; None for the optimizer's own."""
        ...

    def rate(self, reference: Any, iterations: Any) -> Any:
        """Return the learning rate now, given the optimizer's own rate and number of steps."""

    @property
    def scheduled(self) -> bool:
        """Whether the rate depends on the number of steps."""
        ...


class Rated:
    """Lets an optimizer take each step of a variable at the pace of that variable.

    One optimizer holds all slots and counts steps once; clipping, averages and accumulated
    gradients are its own. Only two of its methods are replaced on this one object: the step of a
    variable (on PyTorch, of several at once) and weight decay. Uses
    `BaseOptimizer._apply_weight_decay`, `_get_variable_index`, `_learning_rate`, `_iterations`,
    and `_parallel_update_step` of PyTorch's optimizers (3.12 - 3.16).

    Args:
        optimizer: A built optimizer.
        paces: The pace of each variable that it was built for, in order; the same object for
            variables of the same pace.
    """

    def __init__(self, optimizer: Any, paces: Sequence[Pace]) -> None:
        self.optimizer = optimizer
        self._paces = list(paces)
        self._rate = optimizer._learning_rate
        self._decay = optimizer.weight_decay
        replaced = {"update_step": self._update, "_apply_weight_decay": self._apply_decay}
        if hasattr(optimizer, "_parallel_update_step"):
            replaced["_parallel_update_step"] = self._update_together
        optimizer.__dict__.update(replaced)

    def set_rate(self, value: float) -> None:
        """Set the optimizer's own learning rate, of which the others are multiples."""
        self.optimizer.learning_rate = value
        self._rate = self.optimizer._learning_rate

    @contextlib.contextmanager
    def _at(self, pace: Pace) -> Iterator[Any]:
        """Give the optimizer the rate and decay of a pace; some read their attributes."""
        optimizer = self.optimizer
        rate = pace.rate(self._rate, optimizer._iterations)
        # Adafactor asks whether its rate is a function.
        optimizer.__dict__["_learning_rate"] = (lambda: rate) if pace.scheduled else rate
        if pace.weight_decay is not None:
            optimizer.__dict__["weight_decay"] = pace.weight_decay
        try:
            yield rate
        finally:  # not what it was before: on TensorFlow, threads of replicas take turns here
            optimizer.__dict__["_learning_rate"] = self._rate
            optimizer.__dict__["weight_decay"] = self._decay

    def _pace(self, variable: Any) -> Pace:
        return self._paces[self.optimizer._get_variable_index(variable)]

    def _by_pace(self, variables: Sequence[Any]) -> list[tuple[Pace, list[int]]]:
        found: dict[int, tuple[Pace, list[int]]] = {}
        for place, variable in enumerate(variables):
            pace = self._pace(variable)
            found.setdefault(id(pace), (pace, []))[1].append(place)
        return list(found.values())

    def _update(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        with self._at(self._pace(variable)) as rate:
            return type(self.optimizer).update_step(self.optimizer, gradient, variable, rate)

    def _update_together(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        step = type(self.optimizer)._parallel_update_step
        once = [
            (variable, keras.ops.copy(variable.value))
            for variable in vars(self.optimizer).values()
            if isinstance(variable, keras.Variable)
            and variable is not self._rate
            and variable is not self.optimizer._iterations
        ]
        for pace, places in self._by_pace(variables):
            for variable, value in once:  # Nadam's product moves once in a step, not in each part
                variable.assign(value)
            with self._at(pace) as rate:
                step(
                    self.optimizer, [grads[i] for i in places], [variables[i] for i in places], rate
                )

    def _apply_decay(self, variables: Any) -> None:
        for pace, places in self._by_pace(variables):
            decay: Callable[..., None] = type(self.optimizer)._apply_weight_decay
            if pace.weight_decay is not None:  # Muon has two, and a rule of its own
                decay = keras.optimizers.Optimizer._apply_weight_decay  # type: ignore[attr-defined]
            if pace.weight_decay != 0:
                with self._at(pace):
                    decay(self.optimizer, [variables[i] for i in places])
