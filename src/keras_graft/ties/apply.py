"""Ties carried out on layers, and taken back: other variables in the places of some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.printable import words_of
from keras_graft.ties.layer import (
    OWN,
    Tie,
    all_ties,
    become_tied,
    named_weights,
    owner_of,
    owns,
    plain_class,
    uses,
)


def carry_out(layer: Any, tie: Tie, source: Any, owner: Any) -> None:
    """Let a layer, of which nobody else makes use, work with the variable of another.

    The layers inside that use the variable are tied too. Uses `Layer._tracker` and the attributes
    of layers (3.12 - 3.15): an assignment would count the variable twice, or is refused.

    Args:
        layer: The layer.
        tie: What to do. What came of it is set on it.
        source: The variable.
        owner: The layer that it belongs to: the tied layer follows its LoRA adapters.
    """
    old = named_weights(layer)[tie.weight]
    transform = _keras.AS_IT_IS if tie.transform is None else _keras.TRANSFORMS[tie.transform]
    seen = _keras.Tied(source, owner_of(layer, source) or owner, transform, old)
    before = [known for known in all_ties(layer) if known.weight == tie.weight]
    held = before[0].seen if before else None
    users = [
        user for user in _keras.layers_inside(layer) if _exchange(user, old, held, source, seen)
    ]
    for user in {id(x): x for x in (layer, *users)}.values():
        become_tied(user)
    for user in users:
        others = [known for known in uses(user) if known not in before]
        user.__dict__["_keras_graft_uses"] = [*others, tie]
    if not tie.own:
        tie.own = {name: vars(old)[name] for name in OWN}
    tie.source, tie.seen = source, seen
    tie.inside = owns(layer, source)
    others = [known for known in all_ties(layer) if known.weight != tie.weight]
    layer.__dict__["_keras_graft_ties"] = [*others, tie]
    _track_all(layer)


def take_back(layer: Any, tie: Tie, variable: Any) -> None:
    """Give a layer, of which nobody else makes use, a variable of its own in the place of a tie.

    Args:
        layer: The layer, made again of a plain class: see `plain_class`.
        tie: The tie, among those of the layer.
        variable: The variable.
    """
    for user in _keras.layers_inside(layer):
        if tie in uses(user):
            _exchange(user, tie.source, tie.seen, variable, variable)
            left = [known for known in uses(user) if known is not tie]
            user.__dict__["_keras_graft_uses"] = left
            if left:
                become_tied(user)
    ties = [t for t in all_ties(layer) if t is not tie]
    layer.__dict__["_keras_graft_ties"] = ties
    if ties:
        become_tied(layer)
    _track_all(layer)


def look_again(layer: Any) -> None:
    """Let the views that a layer has of the variables of one inside be of those it has now."""
    views = [v for store in _keras.tracked(layer) for v in store if isinstance(v, _keras.View)]
    # A `layers.Renamed` has none: it has the variables themselves, by way of the layer inside.
    for old, now in zip(views, layer.keras_graft_inside.weights if views else (), strict=True):
        if old.source is not now:
            new = _keras.view(now)
            _exchange(layer, old, None, new, new)
    _track_all(layer)


def own_variable(tie: Tie) -> Any:
    """Return a variable like the one that a tie took away, with the value of the source."""
    # In the order of its own axes, as a file gives it back: PyTorch's sums differ with the order.
    new = _keras.variable_like(
        tie.source, np.array(keras.ops.convert_to_numpy(tie.seen), order="C")
    )
    new.__dict__.update(tie.own)
    if tie.seen.adapters:  # they learned in its place
        new.trainable = any(adapter.trainable for adapter in tie.seen.adapters)
    return new


def shared_copy(layer: Any, plain: bool = False, instead: Mapping[int, Any] | None = None) -> Any:
    """Return a layer like another, with the same variables.

    Args:
        layer: The layer.
        plain: Whether it is to be of a class that knows no ties; `take_back` goes on from there.
        instead: Other variables in the places of some, by the identities of those.
    """
    instead = instead or {}
    inside = {id(x) for x in _keras.layers_inside(layer)}

    def variable(old: Any) -> Any:
        if not isinstance(old, _keras.Tied | _keras.View):
            return instead.get(id(old), old)
        source = instead.get(id(old.source), old.source)
        if isinstance(old, _keras.Tied) and id(old.owner) in inside:
            return old.over(source, copier(old.owner))
        if source is old.source:
            return old
        return old.over(source, None) if isinstance(old, _keras.Tied) else _keras.view(source)

    copier = _keras.Copier(variable, class_of=plain_class if plain else lambda cls: cls)
    own = [name for user in _keras.layers_inside(layer) for name in getattr(user, "graft_own", ())]
    for name in own:
        around = layer.__dict__.get(name)  # a layer of the model around this one
        copier.put(around, around)
    try:
        new = copier(layer)
    except TypeError as error:
        raise WeightsError(
            f"{type(layer).__name__} {layer.name!r} cannot be made again around another variable: "
            f"{words_of(error)}. Let it hold what it works with as attributes of its own."
        ) from error
    if plain:
        for user in _keras.layers_inside(new):
            for name in own:
                user.__dict__.pop(name, None)
    return new


def _track_all(layer: Any) -> None:
    for user in reversed(_keras.layers_inside(layer)):
        if user.built:
            _keras.track_on_torch(user)


def _exchange(layer: Any, old: Any, old_seen: Any, new: Any, seen: Any) -> bool:
    """Put other variables in the places of one, and say whether it was there."""
    found = _keras.put_in_place_of(layer, old, new)
    stores = set(map(id, _keras.tracked(layer)))

    def is_old(item: Any) -> bool:
        return item is old or (old_seen is not None and item is old_seen)

    for name, value in list(vars(layer).items()):
        if name.startswith("_keras_graft"):
            continue
        if is_old(value):
            layer.__dict__[name] = seen
        elif isinstance(value, list) and id(value) not in stores:
            for place, item in enumerate(value):
                if is_old(item):
                    list.__setitem__(value, place, seen)
        elif isinstance(value, dict):
            for key, item in list(value.items()):
                if is_old(item):
                    dict.__setitem__(value, key, seen)
    return found
