"""Run the code of a layer as often as it takes to be sure what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.sizes import Axis, Doubt, Size
from keras_graft.layers.fixed_training import FixedTraining
from keras_graft.model.opening.frame import Frame, Place
from keras_graft.model.opening.reasons import Reason
from keras_graft.model.opening.tracer import Tracer

tree = keras.tree

_MOST = 40
"""How many layers may turn out, one after the other, to stay closed."""

SETS: list[dict[str, list[tuple[int, int]]]] = [
    {"short": [(16, 24), (24, 40), (40, 56)], "image": [(64, 96), (96, 160), (160, 224)]},
    {"short": [(5, 7), (6, 9), (11, 13)], "image": [(32, 48), (48, 80), (80, 112)]},
    {"short": [(64, 96), (96, 160), (160, 224)], "image": [(224, 256), (256, 288), (288, 320)]},
]
"""The values that sizes which are not known have in the two worlds; the sets are tried in turn."""


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
    closed: Mapping[Place, Reason],
) -> Ran:  # fmt: skip
    """Run the code of a layer on symbolic tensors with None for sizes that are not known.

    Args:
        layer: The layer.
        args: Its arguments.
        kwargs: Its other arguments.
        wanted: Says for a layer inside why it stays closed; None if it should be opened.
        closed: Calls inside that stay closed, and why.

    Raises:
        Doubt: If the code of the layer itself does what no graph can say.
    """
    best: Ran | None = None
    failed: Doubt | None = None
    unknown = any(None in t.shape[1:] for t in tree.flatten((args, kwargs)) if _symbolic(t))
    for sizes in SETS if unknown else SETS[:1]:
        try:
            ran = _surely(layer, args, kwargs, wanted, sizes, dict(closed))
        except Doubt as doubt:
            failed = failed or doubt
            continue
        if best is None or len(ran.reasons) < len(best.reasons):
            best = ran
        if not any(_of_keras(reason) for reason in ran.reasons.values()):
            break
    if best is None:
        assert failed is not None
        raise failed
    return best


def _of_keras(reason: Reason) -> bool:
    """Whether a reason is an error, and so may come from the sizes that were tried."""
    return "Error" in reason.split(":")[0]


def _symbolic(leaf: Any) -> bool:
    return isinstance(leaf, keras.KerasTensor)


def _surely(
    layer: Any, args: Any, kwargs: Any, wanted: Callable[[Any, Place], str | None],
    sizes: dict[str, list[tuple[int, int]]], closed: dict[Place, Reason],
) -> Ran:  # fmt: skip
    for _ in range(_MOST):
        first = _once(layer, args, kwargs, wanted, sizes, closed)
        others = [
            (_once(layer, args, kwargs, wanted, sizes, closed, training=True), "in training"),
            (_once(layer, args, kwargs, wanted, sizes, closed, swapped=True), "for other sizes"),
        ]
        found = _parted(first, others) or _settle_training(first, others[0][0])
        if found is None:
            frame = first.frames[((layer.name, 0),)]
            return Ran(frame, {**closed, **first.reasons}, first.given)
        place, reason = found
        if len(place) == 1:
            raise Doubt(reason)
        closed[place] = reason
    raise Doubt("too many of the layers inside stay closed")


def _once(
    layer: Any, args: Any, kwargs: Any, wanted: Any, sizes: Any, closed: dict[Place, Reason],
    training: bool | None = None, swapped: bool = False,
) -> Tracer:  # fmt: skip
    (args, kwargs), given = _sized((args, kwargs), sizes, swapped)
    if training is not None and _keras.takes_training(layer) and kwargs.get("training") is None:
        kwargs = {**kwargs, "training": training}
    tracer = Tracer(layer, wanted, closed)
    tracer.given = given
    tracer.run(args, kwargs)
    return tracer


def _sized(structure: Any, sizes: Any, swapped: bool) -> tuple[Any, dict[int, Any]]:
    """Return arguments with new tensors, whose unknown sizes have two values; and their originals."""
    made: dict[int, Any] = {}
    given: dict[int, Any] = {}

    def change(leaf: Any) -> Any:
        if not _symbolic(leaf):
            return leaf
        if id(leaf) not in made:
            new = made[id(leaf)] = keras.KerasTensor(
                tuple(0 if d is None else d for d in leaf.shape), leaf.dtype
            )
            given[id(new)] = leaf
            _keras.set_shape(new, tuple(_pairs(new, leaf.shape, sizes, swapped)))
            mask = _keras.mask_of(leaf)
            if mask is not None:
                _keras.set_mask(new, change(mask))
        return made[id(leaf)]

    return tree.map_structure(change, structure), given


def _pairs(tensor: Any, shape: Sequence[Any], sizes: Any, swapped: bool) -> Iterator[Any]:
    pool = sizes["image" if len(shape) >= 4 else "short"]
    for axis, size in enumerate(shape):
        if size is not None:
            yield size
            continue
        pair = (2, 3) if axis == 0 else pool[(axis - 1) % len(pool)]
        yield Size(*(reversed(pair) if swapped else pair), Axis(tensor, axis))  # type: ignore[misc]


def _parted(first: Tracer, others: list[tuple[Tracer, str]]) -> tuple[Place, Reason] | None:
    """Return the innermost call that another run made in another way, and how."""
    found: list[tuple[Place, Reason]] = []
    for tracer, where in others:
        for place in {**first.frames, **tracer.frames}:
            ours, theirs = first.frames.get(place), tracer.frames.get(place)
            if ours is None or theirs is None:
                reason = (first if ours is None else tracer).reasons.get(place)
                if reason is not None:
                    found.append((place, reason))
            elif ours.log != theirs.log:
                found.append((place, f"its code does something else {where}"))
    return max(found, key=lambda one: len(one[0]), default=None)


def _settle_training(first: Tracer, trained: Tracer) -> tuple[Place, Reason] | None:
    """Drop the flags that code only passes on, and fix those that it sets itself."""
    for place, frame in first.frames.items():
        other = trained.frames[place]
        for number, (step, flag) in frame.training.items():
            _, then = other.training.get(number, (None, None))
            step.arguments.kwargs.pop("training", None)
            if flag is None or flag != then or not _keras.takes_training(step.operation):
                continue
            inner = frame.inner.get(id(step))
            if inner is not None:
                return inner.place, f"it is called with training={flag}, whatever the model does"
            step.operation = FixedTraining(step.operation, flag=bool(flag))
    return None
