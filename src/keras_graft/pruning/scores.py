"""How much each unit of a group matters: the lowest are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_graft import _keras, advice
from keras_graft.errors import EditError
from keras_graft.graph.names import is_one_of
from keras_graft.printable import shown, words_of
from keras_graft.pruning.group import Group

WAYS = ("magnitude", "l2", "bn_scale", "random")
By = Any


def check_by(by: By) -> None:
    """Refuse what is no way to score units."""
    if not callable(by) and not is_one_of(by, *WAYS):
        raise EditError(
            f"prune: by= must be {', '.join(map(repr, WAYS))}, or a function of a group that returns "
            f"one number for each unit, got {shown(by)}."
        )


def scores(group: Group, by: By, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return one number for each unit of a group."""
    if callable(by):
        try:
            found = np.asarray(by(group), "float64")
        except Exception as error:
            raise EditError(
                f"prune: the function given as by= raised {type(error).__name__} for the group of "
                f"{group.layer!r}: {words_of(error)}"
            ) from error
        if found.shape != (group.count,) or not np.isfinite(found).all():
            raise EditError(
                f"prune: the function given as by= returned {shown(found.tolist())} for the group of "
                f"{group.layer!r}: it must return {group.count} finite numbers, one for each unit."
            )
        return found
    if by == "random":
        return draw(group.count)
    found = _of_weights(group, by)
    if not np.isfinite(found).all():
        raise EditError(
            f"prune: weights of the group of {group.layer!r} are not finite numbers, in the units "
            f"{np.flatnonzero(~np.isfinite(found)).tolist()[:8]}: by={by!r} cannot compare them. Name "
            f"the channels to remove, or give a function: {advice.option('by', 'random')}."
        )
    return found


def _of_weights(group: Group, by: str) -> np.ndarray:
    if by == "bn_scale":
        return _summed(group, _gammas(group), np.abs)
    kernels = [m for m in group.members if m.gives and len(m.shape) > 1]
    used = kernels or [m for m in group.members if m.gives]
    if by == "l2":
        return np.sqrt(_summed(group, used, lambda array: np.square(array, dtype="float64")))
    return _summed(group, used, np.abs)


def _gammas(group: Group) -> list[Any]:
    name = "BatchNormalization"
    found = [m for m in group.members if m.kind == name and m.weight.endswith("/gamma")]
    if not found:
        raise EditError(
            f'prune: by="bn_scale", and the group of {group.layer!r} has no BatchNormalization with '
            f"a scale. Use the weights: {advice.option('by', 'magnitude')}."
        )
    return found


def _summed(group: Group, members: list[Any], change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return the sum over all positions of a unit, in all weights."""
    total = np.zeros(group.count)
    for member in members:
        array = change(_keras.values_of(member.variable))
        others = tuple(i for i in range(array.ndim) if i != member.axis)
        sums = array.sum(others, dtype="float64")
        known = member.units >= 0
        np.add.at(total, member.units[known], sums[known])
    return total
