"""Run the code of a layer as often as it takes to be sure what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Doubt
from keras_graft.layers.fixed_training import FixedTraining
from keras_graft.model.opening.frame import Frame, Place
from keras_graft.model.opening.losing import adds_in_training
from keras_graft.model.opening.reasons import Reason, is_error, line_of_code
from keras_graft.model.opening.tracer import Tracer
from keras_graft.model.opening.worlds import BATCH, CHECKS, Way, sized

_MOST = 40
"""How many layers may turn out, one after the other, to stay closed."""


@dataclass
class Ran:
    """What the code of a layer does.

    Attributes:
        frame: The call.
        reasons: Why calls inside it stay closed.
        given: For each tensor that was passed in, by its identity, the one that it was made from.
    """

    frame: Frame
    reasons: dict[Place, Reason]
    given: dict[int, Any]


def run(
    layer: Any, args: Any, kwargs: Any, wanted: Callable[[Any, Place], str | None],
    closed: Mapping[Place, Reason], way: Way, native: bool, weights: dict[Any, Any],
    once: bool = False,
) -> Ran:  # fmt: skip
    """Run the code of a layer on symbolic tensors with None for sizes that are not known.

    Args:
        layer: The layer.
        args: Its arguments.
        kwargs: Its other arguments.
        wanted: Says for a layer inside why it stays closed; None if it should be opened.
        closed: Calls inside that stay closed, and why.
        way: Which values sizes have.
        native: Whether Python operators are recorded as such, and not as ops of Keras.
        weights: The `Weight`s of variables; more are added.
        once: Whether one run is enough: nothing is proven then.

    Raises:
        Doubt: If the code of the layer itself does what no graph can say.
    """
    closed = dict(closed)
    losing: set[Place] = set()
    given = layer, args, kwargs, wanted
    for _ in range(_MOST):
        how = closed, native, weights, losing
        first = _once(*given, way, *how)
        if once:
            _drop_flags(first)
            return Ran(first.frames[((layer.name, 0),)], {**closed, **first.reasons}, first.given)
        trained = _once(*given, way, *how, training=True)
        found = _parted(first, trained, "in training")
        for check in _checks(way) if found is None and _is_unknown((args, kwargs)) else ():
            try:
                again = _once(*given, check, *how)
            except Doubt as doubt:
                if is_error(str(doubt)):
                    continue  # its code does not take these sizes
                raise
            found = found or _parted(first, again, "for other sizes")
        if found is None and any(map(_is_on, _flags(first))):
            found = _trains_unless_told(first, _once(*given, way, *how, training=False))
        found = found or _settle_training(first, trained, weights)
        if found is None:
            frame = first.frames[((layer.name, 0),)]
            return Ran(frame, {**closed, **first.reasons}, first.given)
        place, reason = found
        if place not in losing and adds_in_training(place, first.frames, trained.frames):
            losing.add(place)
            continue
        if len(place) == 1:
            raise Doubt(reason)
        closed[place] = reason
    raise Doubt("too many of the layers inside stay closed")


def _checks(way: Way) -> list[Way]:
    times = way[2][0] // BATCH[0]
    return [(family, way[1], (a * times, b * times)) for (a, b), family in CHECKS]


def _is_unknown(structure: Any) -> bool:
    given = keras.tree.flatten(structure)
    return any(isinstance(leaf, keras.KerasTensor) and None in leaf.shape for leaf in given)


def _once(
    layer: Any, args: Any, kwargs: Any, wanted: Any, way: Way, closed: dict[Place, Reason],
    native: bool, weights: dict[Any, Any], losing: set[Place], training: bool | None = None,
) -> Tracer:  # fmt: skip
    (args, kwargs), given = sized((args, kwargs), way)
    if (
        training is not None and kwargs.get("training") is None
    ):  # Keras passes it on to layers inside
        kwargs = {**kwargs, "training": training}
    tracer = Tracer(layer, wanted, closed, native, weights, losing)
    tracer.given = given
    tracer.run(args, kwargs)
    return tracer


def _parted(first: Tracer, again: Tracer, where: str) -> tuple[Place, Reason] | None:
    """Return the innermost call that another run made in another way, and how."""
    found: list[tuple[Place, Reason]] = []
    for place in {**first.frames, **again.frames}:
        ours, theirs = first.frames.get(place), again.frames.get(place)
        if ours is None or theirs is None:
            reason = (first if ours is None else again).reasons.get(place)
            # Its code may not take the other sizes.
            if reason is not None and not (theirs is None and is_error(reason)):
                found.append((place, reason))
        elif ours.log != theirs.log:
            line = ours.log.first_difference(theirs.log)
            quoted = f" ({line_of_code(ours.log.file, line)})" if line else ""
            found.append((place, f"its code does something else {where}{quoted}"))
    return max(found, key=lambda one: len(one[0]), default=None)


def _flags(tracer: Tracer) -> list[tuple[Place, int, Any]]:
    """Return the training flags of calls, with the place and the number of each."""
    return [
        (place, number, flag)
        for place, frame in tracer.frames.items()
        for number, (_, flag) in frame.training.items()
    ]


def _is_on(flag: tuple[Place, int, Any]) -> bool:
    return bool(flag[2])


def _trains_unless_told(first: Tracer, off: Tracer) -> tuple[Place, Reason] | None:
    """Return a call that is in training if nothing says whether the model is, and why.

    Layers that change images have `training=True` as their default. Keras then hands that on to all
    calls behind, which no graph can say.
    """
    told = {(place, number) for place, number, flag in _flags(off) if not flag}
    for place, number, _ in filter(_is_on, _flags(first)):
        if (place, number) in told and not first.frames[place].adds_in_training:
            name = first.frames[place].training[number][0].operation.name
            return place, (
                f"{name!r} is in training where nothing says whether the model is: pass training= on "
                "to the layers in its code"
            )
    return None


def _drop_flags(tracer: Tracer) -> None:
    for frame in tracer.frames.values():
        for step, _ in frame.training.values():
            step.arguments.kwargs.pop("training", None)


def _settle_training(
    first: Tracer, trained: Tracer, made: dict[Any, Any]
) -> tuple[Place, Reason] | None:
    """Drop the flags that code only passes on, and fix those that it sets itself."""
    for place, frame in first.frames.items():
        other = trained.frames[place]
        for number, (step, flag) in frame.training.items():
            _, then = other.training.get(number, (None, None))
            step.arguments.kwargs.pop("training", None)
            # Keras takes `training=None` for what it says: not in training, whatever is around it.
            # Code that runs as in training only passes its flag on: that was seen before.
            if bool(flag) != bool(then) or frame.adds_in_training:
                continue
            inner = frame.inner.get(id(step))
            if inner is not None:
                return (
                    inner.place,
                    f"it is called with training={bool(flag)}, whatever the model does",
                )
            if _keras.ignores_training(step.operation):
                continue
            frame.fixed.append((number, bool(flag)))
            key = id(step.operation), bool(flag)
            if key not in made:  # one layer with one flag stays one layer
                made[key] = FixedTraining(step.operation, flag=bool(flag))
            step.operation = made[key]
    return None
