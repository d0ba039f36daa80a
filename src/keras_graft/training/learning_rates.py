"""`learning_rates`: an optimizer with a learning rate for each part of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.printable import shown
from keras_graft.training.depth import blocks_after
from keras_graft.training.groups import Group, Row, Schedule, Table, is_number
from keras_graft.training.named import Weights
from keras_graft.training.optimizer import LearningRates


def learning_rates(
    model: Any,
    optimizer: Any,
    rates: Any,
    *,
    decay: float | None = None,
    blocks: Sequence[Any] | None = None,
    weight_decay: Any = None,
) -> LearningRates:
    """Make an optimizer that trains each part of a model at its own learning rate.

    The first selector that names a weight counts, so put the general ones last. Every trainable
    weight must be named. A rate of 0 means that weights do not move at all, neither by momentum
    nor by weight decay; their gradients are still computed (`kg.freeze` saves that).

    One variable has one rate. A layer that is called several times, and a tied weight, can be named
    through each of its places; if two selectors give it different rates, each through another
    place, that is refused.

    With `decay`, rates fall from the head down: a weight with n blocks behind it has the rate times
    `decay ** n` (the idea of discriminative fine-tuning in ULMFiT, arXiv:1801.06146, as a power of
    the depth as in BEiT, arXiv:2106.08254). A block ends where everything that was computed with
    weights passes through one node: after a residual block, a transformer layer, a layer of a
    chain. What has no kernel, such as a normalization, counts with the block before it; a shared
    layer and a tied weight with their first block.

    `print(optimizer.rates)` shows the rate of each weight. `optimizer.learning_rate` is the largest
    one; a callback that sets it scales all alike. The optimizer is saved and loaded with the model,
    after `import keras_graft`. To train on with the state of the optimizer that a model had:

        old = model.optimizer
        model.compile(kg.learning_rates(model, old, rates), loss)
        kg.carry_optimizer(old, model)

    Args:
        model: A built Keras model.
        optimizer: A Keras optimizer, or its name. It is made again from its configuration. Its own
            learning rate is not used.
        rates: `{selector: rate}`. A selector is a glob of layers or of weight addresses
            (`"conv4_*"`, `"encoder/*"`, `"**/bias"`), or any other selector of layers. A rate is a
            number or a `LearningRateSchedule`. A rate alone is the rate of all weights.
        decay: The factor from each block to the block before it, in (0, 1].
        blocks: The blocks for `decay`, from the inputs to the head, each as a selector. Needed
            where few nodes have everything pass through them (NASNet), or many (a chain of
            small layers).
        weight_decay: `{selector: weight decay}`, or one number for all weights. What is not named
            keeps the optimizer's own.

    Returns:
        The optimizer, for `model.compile`.

    Raises:
        WeightsError: If a selector names nothing, or nothing that is left for it; if a trainable
            weight is not named; if a variable would get two rates; if a rate is no number or
            schedule; if the optimizer wraps others or has a schedule of its own.

    >>> import keras, keras_graft as kg
    >>> layers = [keras.layers.Dense(3, name="trunk"), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> optimizer = kg.learning_rates(model, "adam", {"trunk": 1e-5, "**": 1e-3})
    >>> print(optimizer.rates)
    Adam
    rate   given as  weights  parameters
    0.001  0.001           2           8
    1e-05  1e-05           2          15
    <BLANKLINE>
    weight        rate
    trunk/kernel  1e-05
    trunk/bias    1e-05
    head/kernel   0.001
    head/bias     0.001
    >>> model.compile(optimizer, "mse")
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise WeightsError(
            f"learning_rates: model must be a built Keras model, got {shown(model)}."
        )
    inner = _inner(optimizer)
    rates = _checked(rates, "rates", lambda value: is_number(value) or isinstance(value, Schedule))
    decays = {} if weight_decay is None else _checked(weight_decay, "weight_decay", is_number)
    if decay is not None and not (is_number(decay) and 0 < decay <= 1):
        raise WeightsError(f"learning_rates: decay= is a number in (0, 1], got {shown(decay)}.")
    weights = Weights(model)
    first = weights.first_of(list(rates), list(rates.values()), "rates")
    reduced = weights.first_of(list(decays), list(decays.values()), "weight_decay")
    _check_named(weights, first)
    number = _blocks_after(weights, decay, blocks)
    kept = _not_decayed(optimizer, model)
    groups: dict[tuple[Any, float, float | None], int] = {}
    rows: list[Row] = []
    for key, weight in weights.by_id.items():
        group = None
        if key in first:
            own = reduced.get(key, 0.0 if id(weight.variable) in kept else None)
            factor = float(decay or 1) ** number.get(key, 0)
            group = groups.setdefault((first[key], factor, own), len(groups))
        shape = tuple(weight.variable.shape)
        rows.append(Row(weight.address, weight.variable.path, shape, group, key, weight.variable))
    made = [Group(*of) for of in groups]
    place = {row.key: i for i, row in enumerate(rows)}
    order = [place[key] for key in weights.trained]
    used = [made[g] for i in order if (g := rows[i].group) is not None]
    if not any(group.moves for group in used):
        raise WeightsError(
            "learning_rates: all trainable weights have the rate 0, so nothing would be trained. "
            "Give one of them a rate."
        )
    numbers = [g.base * g.factor for g in used if g.moves and not g.scheduled]
    numbers = numbers or [g.base * g.factor for g in made if g.moves and not g.scheduled]
    reference = max(numbers, default=None)
    if reference is not None:
        inner.learning_rate = reference
    return LearningRates(inner, Table(made, rows, order, reference))


def _inner(optimizer: Any) -> Any:
    """Return a new optimizer of the same configuration."""
    if isinstance(optimizer, LearningRates):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise WeightsError(
            "learning_rates: give the optimizer inside the LossScaleOptimizer: "
            "kg.learning_rates(model, optimizer.inner_optimizer, rates). compile() scales the loss of "
            "a mixed_float16 model by itself."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        try:
            optimizer = keras.optimizers.get(optimizer)
        except Exception as error:
            raise WeightsError(
                f"learning_rates: {shown(optimizer)} is not an optimizer. Give one of Keras's, such as "
                "keras.optimizers.Adam(), or its name."
            ) from error
    if not isinstance(optimizer, keras.optimizers.Optimizer) or not _keras.steps_alone(optimizer):
        raise WeightsError(
            f"learning_rates: {type(optimizer).__name__} makes no steps itself. Give an optimizer that "
            "does, such as keras.optimizers.Adam()."
        )
    if _keras.own_schedule(optimizer) is not None:
        raise WeightsError(
            f"learning_rates: {type(optimizer).__name__} has a schedule of its own, which would not be "
            'used. Give it as a rate: kg.learning_rates(model, optimizer, {"**": schedule}), with an '
            "optimizer that has a number."
        )
    try:
        return _keras.same_optimizer(optimizer)
    except Exception as error:
        raise WeightsError(
            f"learning_rates: {type(optimizer).__name__} cannot be made again from its configuration. "
            "Let its get_config() return all arguments of its constructor."
        ) from error


def _checked(given: Any, what: str, fits: Any) -> dict[Any, Any]:
    """Return `{selector: value}`, with numbers as floats."""
    pairs = dict(given) if isinstance(given, Mapping) else {"**": given}
    if not pairs:
        raise WeightsError(
            f'learning_rates: {what}= is empty. Name weights: {what}={{"**": 1e-4}}.'
        )
    for selector, value in pairs.items():
        if not fits(value):
            kinds = "a number >= 0" + (" or a LearningRateSchedule" if what == "rates" else "")
            raise WeightsError(
                f"learning_rates: in {what}=, {shown(selector)} has the value {shown(value)}; it must "
                f"be {kinds}."
            )
    return {k: v if isinstance(v, Schedule) else float(v) for k, v in pairs.items()}


def _blocks_after(weights: Weights, decay: Any, blocks: Any) -> dict[int, int]:
    """Return the number of blocks behind each weight, found or given."""
    if blocks is None:
        return {} if decay is None else blocks_after(weights)
    if decay is None or isinstance(blocks, str) or not isinstance(blocks, Sequence) or not blocks:
        raise WeightsError(
            "learning_rates: blocks= is a list of selectors, from the inputs to the head, and needs "
            f'decay=: decay=0.75, blocks=["stem*", "body*", "head"]. Got {shown(blocks)}.'
        )
    place = {i: len(blocks) - 1 - i for i in range(len(blocks))}
    first = weights.first_of(list(blocks), list(place.values()), "blocks")
    _check_named(weights, first, "blocks")
    return first


def _check_named(weights: Weights, first: Mapping[int, Any], what: str = "rates") -> None:
    left = [key for key in weights.trained if key not in first]
    if left:
        unknown = [v.path for v in weights.model.trainable_variables]
        names = [weights.by_id[k].address for k in left if k in weights.by_id] or unknown
        more = (
            '{..., "**": 1e-4}. A rate of 0 leaves weights as they are.'
            if what == "rates"
            else '[..., "**"].'
        )
        raise WeightsError(
            f"learning_rates: no selector of {what}= names {listed(names)}. Name them, or add a last "
            f"entry for what is left: {more}"
        )


def _not_decayed(optimizer: Any, model: Any) -> set[int]:
    """Return the identities of the variables that the optimizer was told not to decay."""
    optimizer = _keras.works(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return set()
    keys, patterns = _keras.not_decayed(optimizer)
    return {
        id(v)
        for v in model.variables
        if _keras.key_of(optimizer, v) in keys or any(_found(p, v.name) for p in patterns)
    }


def _found(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None
