"""Keras's private state of optimizers: the slots of each variable, how a model was compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_graft._keras.configs import get_config


def trained_by(optimizer: Any) -> list[Any]:
    """Return the variables that a built optimizer trains (`_trainable_variables`, 3.12 - 3.15)."""
    return optimizer._trainable_variables


@dataclass(frozen=True)
class Slots:
    """The state of one optimizer; an optimizer that wraps others has several of these.

    Attributes:
        optimizer: The optimizer.
        variables: The variables it was built for, in order.
        single: The variables it has once, by attribute: the number of steps, a loss scale.
        lists: Its slots for each variable, by attribute, in their order; None where it needs
            none.
    """

    optimizer: Any
    variables: list[Any]
    single: dict[str, Any]
    lists: dict[str, list[Any]]

    def index(self) -> dict[int, int]:
        """Return the place of each variable, by identity."""
        return {id(v): i for i, v in enumerate(self.variables)}


_NO_SLOTS = ("_variables", "_trainable_variables")


def works(optimizer: Any) -> Any:
    """Return the optimizer that holds the slots: that inside `kg.learning_rates`, else itself."""
    return getattr(optimizer, "keras_graft_inside", optimizer)


def slots(optimizer: Any, path: str = "") -> dict[str, Slots]:
    """Return the state of a built optimizer and of those inside it, by the attribute path to each.

    Keras's optimizers, and those written as its guide says, hold lists in the order of the
    variables they were built for. Uses `BaseOptimizer._trainable_variables` (3.12 - 3.15).
    """
    optimizer = works(optimizer)
    variables = list(optimizer._trainable_variables)
    single: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    found = {path: Slots(optimizer, variables, single, lists)}
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            single[name] = value
        elif isinstance(value, keras.optimizers.Optimizer):
            found |= slots(value, f"{path}.{name}")
        elif isinstance(value, list) and value and name not in _NO_SLOTS:
            if all(isinstance(x, keras.optimizers.Optimizer) for x in value):
                for i, x in enumerate(value):
                    found |= slots(x, f"{path}.{name}[{i}]")
            elif len(value) == len(variables) and all(
                x is None or isinstance(x, keras.Variable) for x in value
            ):
                lists[name] = list(value)
    return found


def moves_averages(name: str) -> bool:
    """Return whether a list of slots holds averages of the variables themselves.

    `_model_variables_moving_average` (3.12 - 3.15), of `use_ema`.
    """
    return name == "_model_variables_moving_average"


def batches_seen(optimizer: Any) -> Any:
    """Return the variable that counts batches, not steps (`_iterations`, 3.12 - 3.15).

    With `gradient_accumulation_steps`, a step takes several batches.
    """
    return optimizer._iterations


def count_with(optimizer: Any, other: Any) -> None:
    """Let an optimizer count its batches with another one (`_iterations`, 3.12 - 3.15)."""
    optimizer.__dict__["_iterations"] = other._iterations


def is_accumulated(name: str) -> bool:
    """Return whether a list of slots holds gradients that wait for their step.

    `_accumulated_gradients` (3.12 - 3.15).
    """
    return name == "_accumulated_gradients"


def is_learning_rate(optimizer: Any, variable: Any) -> bool:
    """Return whether a variable is the learning rate (`_learning_rate`, 3.12 - 3.15)."""
    return optimizer._learning_rate is variable


def same_optimizer(optimizer: Any) -> Any:
    """Return an optimizer with the same configuration that is not built.

    It has the present learning rate, or the same schedule or function object. Uses
    `_learning_rate`, `inner_optimizer` (3.12 - 3.15).
    """
    if hasattr(optimizer, "keras_graft_again"):
        return optimizer.keras_graft_again(same_optimizer(optimizer.keras_graft_inside))
    config = get_config(optimizer)
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return type(optimizer)(**{**config, "inner_optimizer": same_optimizer(inner)})
    if "learning_rate" in config and not isinstance(optimizer._learning_rate, keras.Variable):
        config["learning_rate"] = optimizer._learning_rate
    return type(optimizer).from_config(config)


def own_schedule(optimizer: Any) -> Any:
    """Return the schedule or function that gives an optimizer its learning rate, None for a number.

    Uses `_learning_rate` (3.12 - 3.15).
    """
    rate = optimizer._learning_rate
    return None if isinstance(rate, keras.Variable) else rate


def steps_alone(optimizer: Any) -> bool:
    """Return whether an optimizer makes its steps itself; one that wraps others does not."""
    return type(optimizer).update_step is not keras.optimizers.Optimizer.update_step


def not_decayed(optimizer: Any) -> tuple[set[int], list[str]]:
    """Return what is excluded from weight decay: identities of variables, patterns of names.

    The configuration does not contain it. Uses `_exclude_from_weight_decay`,
    `_exclude_from_weight_decay_pattern` (3.12 - 3.15).
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    ids: set[int] = set(getattr(optimizer, "_exclude_from_weight_decay", ()))
    return ids, [] if pattern is None else [pattern.pattern]


def key_of(optimizer: Any, variable: Any) -> Any:
    """Return the key by which an optimizer knows a variable (`_var_key`, 3.12 - 3.15)."""
    return optimizer._var_key(variable)


def compilation(model: Any, metrics_again: bool = True) -> dict[str, Any]:
    """Return the arguments with which a model was compiled, without the optimizer.

    With `metrics_again`, for another model, metrics are made again: they hold state. Uses
    `Trainer._compile_config` (3.12 - 3.15): its public form is serialized; not every loss can be.
    """
    config = dict(model._compile_config.config)
    config.pop("optimizer", None)
    for name in ("metrics", "weighted_metrics") if metrics_again else ():
        config[name] = _anew(config.get(name))
    return config


def _anew(metrics: Any) -> Any:
    if isinstance(metrics, dict):
        return {key: _anew(x) for key, x in metrics.items()}
    if isinstance(metrics, list | tuple):
        return [_anew(x) for x in metrics]
    if isinstance(metrics, keras.Metric):
        return type(metrics).from_config(get_config(metrics))
    return metrics
