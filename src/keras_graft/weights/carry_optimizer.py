"""The verb `carry_optimizer`: continue training after an edit, with the optimizer's state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.model.recreate import assign
from keras_graft.printable import shown, words_of
from keras_graft.weights.address import groups
from keras_graft.weights.carried import Carried
from keras_graft.weights.match import matched
from keras_graft.weights.taken import slot_taken, taken_from
from keras_graft.weights.trained import Trained, options_of, slots_of, trained

Pairs = Iterable[tuple[Any, Any]]


def carry_optimizer(
    old: Any, new: Any, pairs: Pairs | None = None, match: str | None = None
) -> Carried:
    """Continue training where it stopped, after an edit or after layers were unfrozen.

    `new` gets its own optimizer: same class, configuration, learning rate or schedule, and number
    of steps; and for each trainable variable that was trained before, its slots (momenta,
    moments, moving averages). A model that was not edited then trains exactly as the old one would
    have, to the bit. (On PyTorch, all models share one generator for `Dropout` without a seed:
    then the numbers differ.) The old model and its optimizer are not changed.

    A variable that `prune` made gets the slots of the positions that stayed.

    A new variable gets the slots of a first step, mostly zeros. The number of steps is shared by
    all variables: Adam's correction of its first steps is over, so a new variable makes up to
    three times the usual steps at first.

    To unfreeze layers and train on, set their flags and call `carry_optimizer(model, model)`: the
    model is compiled again as it was. To compile it yourself, keep the optimizer that it had:

        old = model.optimizer
        model.get_layer("trunk").trainable = True
        model.compile(keras.optimizers.Adam(1e-5), loss)
        kg.carry_optimizer(old, model)

    Args:
        old: A model that was compiled and trained, or the optimizer that it had.
        new: The edited model. If it is not compiled, it is compiled with the loss, metrics and
            options of the old one. If it is, its own optimizer is filled and keeps its learning
            rate. The old model itself is compiled again, with a new optimizer.
        pairs: For models that share no variables: pairs (variable of the old model, variable of
            the new one).
        match: `"name"`: variables of the same address are matched, as in `transplant`. Without
            it, a variable is matched only with itself.

    Returns:
        The report: prints as tables, has `to_dict()`.

    Raises:
        WeightsError: If there is nothing to copy, or if it does not fit: another optimizer, slots
            of another shape, an optimizer made for other variables. Nothing is changed then.

    >>> import keras, numpy as np, keras_graft as kg
    >>> layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")]
    >>> model = keras.Sequential([keras.Input((2,)), *layers])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, verbose=0)
    >>> edited = kg.insert(model, keras.layers.Dense(3, name="more"), after="a")
    >>> print(kg.carry_optimizer(model, edited))
    Adam after 2 steps; for each weight: momentum, velocity
                weights
    took slots        4
    new               2
    dropped           0
    <BLANKLINE>
    weight       slots
    more/kernel  new: starts fresh
    more/bias    new: starts fresh
    """
    before = trained(old, new)
    donor = slots_of(before, new)
    if not isinstance(new, keras.Model) or not new.built:
        raise WeightsError(f"carry_optimizer: new must be a built Keras model, got {shown(new)}.")
    variables = new.trainable_variables
    partners = _partners(before, new, pairs, match)
    known = {id(v) for part in donor.values() for v in part.variables}
    if not any(id(partners.get(id(v), v)) in known for v in variables):
        raise WeightsError(
            "carry_optimizer: old trained none of the trainable variables of new. For a copy, "
            'whose variables are different ones, give match="name", or pairs=[(old, new), ...].'
        )
    filled = bool(new.compiled) and before.model is not new
    optimizer = _own_optimizer(before, new) if filled else fresh(before, new, partners)
    kinds = [{k: type(s.optimizer) for k, s in x.items()} for x in (donor, _keras.slots(optimizer))]
    if kinds[0] != kinds[1]:
        raise WeightsError(
            "carry_optimizer: the optimizers wrap optimizers of different classes: "
            f"{_kind(before.optimizer)} in old, {_kind(optimizer)} in new. Compile new with the "
            "same."
        )
    if not optimizer.built:
        optimizer.build(variables)
    target = _keras.slots(optimizer)
    report, steps = _plan(before, new, donor, target, partners)
    options = {} if filled else options_of(before, new)
    for _, value in steps:
        if isinstance(value, keras.Variable) and not _keras.has_value(value):
            raise WeightsError(
                f"carry_optimizer: {value.path!r} has no value: it was lost in a training step that "
                "failed or was of another model. Load the model again."
            )
    for variable, value in steps:
        assign(variable, value)
    if not filled:
        # The optimizer is of a class that scales the loss, or is not: compile() must not wrap it.
        new.compile(optimizer=optimizer, auto_scale_loss=False, **options)
    return report


def _partners(before: Trained, new: Any, pairs: Pairs | None, match: str | None) -> dict[int, Any]:
    """Return the old variable of each new variable that is a different object, by its id."""
    if match not in (None, "name"):
        raise WeightsError(f'carry_optimizer: match={shown(match)} is neither "name" nor None.')
    found: dict[int, Any] = {}
    old = before.model
    if match == "name":
        if old is None:
            raise WeightsError(
                'carry_optimizer: match="name" uses the layers of the old model, but old is an '
                "optimizer. Give the model, or pairs=[(old, new), ...]."
            )
        mine = {id(v) for v in old.variables}
        kept = {id(v) for v in new.variables}
        for weight, its in matched(groups(old), groups(new), "name").items():
            survives = id(its.variable) in kept  # it keeps its own slots
            if id(weight.variable) not in mine and weight.shape == its.shape and not survives:
                found[id(weight.variable)] = its.variable
    known = {id(v): v for v in before.variables()}
    for variable in new.variables:
        its = taken_from(variable, known)
        if its is not None:
            found[id(variable)] = its
    olds = set(known)
    news = {id(v) for v in new.variables}
    try:
        given = [(its, mine) for its, mine in pairs or ()]
    except (TypeError, ValueError):
        raise WeightsError(
            "carry_optimizer: pairs= must be a list of pairs, [(a variable of old, one of new), ...], "
            f"got {shown(pairs)}."
        ) from None
    for its, mine in given:
        if id(its) not in olds or id(mine) not in news:
            raise WeightsError(
                "carry_optimizer: each of pairs= must be a variable of old and one of new, and "
                f"{getattr(its, 'path', its)!r} and {getattr(mine, 'path', mine)!r} are not."
            )
        if tuple(its.shape) != tuple(mine.shape):
            raise WeightsError(
                f"carry_optimizer: pairs= pairs {its.path!r} {tuple(its.shape)} with "
                f"{mine.path!r} {tuple(mine.shape)}: slots have the shape of their variable."
            )
        found[id(mine)] = its
    return found


def _own_optimizer(before: Trained, new: Any) -> Any:
    """Return the optimizer that the new model was compiled with, if it can be filled."""
    optimizer = new.optimizer
    if optimizer is before.optimizer:
        raise WeightsError(
            "carry_optimizer: both models were compiled with the same optimizer, which can "
            "train only one of them. Do not compile new, or give it an optimizer of its own."
        )
    if type(_keras.works(optimizer)) is not type(_keras.works(before.optimizer)):
        raise WeightsError(
            f"carry_optimizer: new is compiled with {type(optimizer).__name__}, old with "
            f"{type(before.optimizer).__name__}: the slots of one mean nothing to the other. Compile "
            "new with the same class, or not at all."
        )
    if optimizer.built:
        mine = _keras.trained_by(optimizer)
        if [id(v) for v in mine] != [id(v) for v in new.trainable_variables]:
            raise WeightsError(
                "carry_optimizer: the optimizer of new was made for different variables than new "
                "trains now. Compile new again."
            )
        parts = _keras.slots(optimizer).values()
        if any(_number(_keras.batches_seen(part.optimizer)) for part in parts):
            raise WeightsError(
                "carry_optimizer: new has been trained since it was compiled, and has slots of its "
                "own. Compile it again if they can be discarded."
            )
    return optimizer


def fresh(before: Trained, new: Any, partners: dict[int, Any]) -> Any:
    """Return an optimizer for the new model that is like the old model's."""
    if type(new).compile is not keras.Model.compile:
        kind = type(before.optimizer).__name__
        raise WeightsError(
            f"carry_optimizer: {type(new).__name__} has a compile() of its own. "
            + (
                "Keep its optimizer, old = model.optimizer, compile it again with one of class "
                f"{kind}, and call kg.carry_optimizer(old, model)."
                if before.model is new
                else f"Compile new first, with an optimizer of class {kind}."
            )
        )
    try:
        made = _keras.same_optimizer(before.optimizer)
    except Exception as error:
        raise WeightsError(
            f"carry_optimizer: {type(before.optimizer).__name__} cannot be made again from its "
            f"configuration: {words_of(error)}. Compile new with one like it first."
        ) from error
    donors, now = _keras.slots(before.optimizer), _keras.slots(made)
    for path, part in now.items():
        if path not in donors:  # the caller compares the optimizers inside
            continue
        donor = donors[path].optimizer
        ids, names = _keras.not_decayed(donor)
        if ids or names:
            variables = [
                v
                for v in new.trainable_variables
                if _keras.key_of(donor, partners.get(id(v), v)) in ids
            ]
            part.optimizer.exclude_from_weight_decay(variables, names)
    return made


def _plan(
    before: Trained,
    new: Any,
    donor: dict[str, _keras.Slots],
    target: dict[str, _keras.Slots],
    partners: dict[int, Any],
) -> tuple[Carried, list[tuple[Any, Any]]]:
    """Return the report, and the pairs (variable of the new optimizer, its new value)."""
    steps: list[tuple[Any, Any]] = []
    taken: dict[int, Any] = {}
    kinds: dict[str, None] = {}
    begins: dict[str, None] = {}
    gone = {name: None for path in target for name in donor[path].lists}
    for path, part in target.items():
        source = donor[path]
        # An optimizer that only wraps others lists their variables too.
        wraps = any(other.startswith(f"{path}.") for other in target)
        for name, variable in part.single.items():
            its = source.single.get(name)
            if its is None or _keras.is_learning_rate(part.optimizer, variable):
                continue
            if variable is _keras.batches_seen(part.optimizer) and not _same_pace(part, source):
                # Counted in batches, and a step takes a different number of batches here.
                its = _steps(source.optimizer) * _batches(part.optimizer)
            steps.append((variable, its))
        places_of = source.index()
        for i, variable in enumerate(part.variables):
            partner = partners.get(id(variable), variable)
            place = places_of.get(id(partner))
            if place is not None and not wraps:
                taken[id(variable)] = partner
            for name, row in part.lists.items():
                gone.pop(name, None)
                goes = name in source.lists
                if _keras.is_accumulated(name):  # summed for one step of that many batches
                    goes = goes and _same_pace(part, source)
                (kinds if goes else begins)[name] = None
                its = None if place is None or not goes else source.lists[name][place]
                if row[i] is None:
                    continue
                if its is not None:
                    if tuple(its.shape) != tuple(row[i].shape):
                        array = np.asarray(keras.ops.convert_to_numpy(its))
                        smaller = slot_taken(variable, partner, array)
                        if smaller is not None and smaller.shape == tuple(row[i].shape):
                            steps.append((row[i], smaller))
                            continue
                        raise WeightsError(
                            f"carry_optimizer: the slot {row[i].path!r} has the shape "
                            f"{tuple(row[i].shape)}, and {tuple(its.shape)} in old."
                        )
                    steps.append((row[i], its))
                elif _keras.moves_averages(name):
                    steps.append((row[i], variable))  # a moving average starts at the value itself
    olds, news = (
        {id(w.variable): w.address for w in groups(m).weights()} for m in (before.model or new, new)
    )
    variables = list({id(v): v for p in target.values() for v in p.variables}.values())
    known = list({id(v): v for p in donor.values() for v in p.variables}.values())
    survived = {id(v) for v in taken.values()}
    name_old = [(id(v), str(olds.get(id(v), v.path))) for v in known]
    name_new = [(id(v), str(news.get(id(v), v.path))) for v in variables]
    slots_taken, slots_new, slots_gone = (
        tuple(dict.fromkeys(map(_plain, names))) for names in (kinds, begins, gone)
    )
    report = Carried(
        _kind(before.optimizer),
        max(_steps(part.optimizer) for part in donor.values()),
        slots_taken,
        slots_new,
        slots_gone,
        tuple((n, dict(name_old)[id(taken[key])]) for key, n in name_new if key in taken),
        tuple(n for key, n in name_new if key not in taken),
        tuple(n for key, n in name_old if key not in survived),
    )
    return report, steps


def _batches(optimizer: Any) -> int:
    """Return the number of batches in a step."""
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def _same_pace(part: _keras.Slots, source: _keras.Slots) -> bool:
    return _batches(part.optimizer) == _batches(source.optimizer)


def _steps(optimizer: Any) -> int:
    return _number(optimizer.iterations)


def _number(variable: Any) -> int:
    return int(np.asarray(keras.ops.convert_to_numpy(variable)))


def _kind(optimizer: Any) -> str:
    inner = getattr(optimizer, "inner_optimizer", None)
    return type(optimizer).__name__ + (f"({_kind(inner)})" if inner is not None else "")


def _plain(attribute: str) -> str:
    """Return the name of one slot from the name of their list: `_velocities` becomes `velocity`."""
    name = attribute.strip("_").replace("_", " ")
    for plural, one in (("velocities", "velocity"), ("model variables moving average", "average")):
        name = name.replace(plural, one)
    return name.removesuffix("s") if name.endswith("s") and not name.endswith("ss") else name
