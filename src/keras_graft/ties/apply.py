"""Apply ties to layers, or undo them: replace variables of a layer by different ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.record import record_of, remember, unwrapped
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
    """Make a layer use the variable of another layer. No other model may use the first layer.

    The layers inside that use the weight are tied too. Uses `Layer._tracker` and the attributes
    of layers (3.12 - 3.15): Keras would count an assigned variable twice, or refuse it.

    Args:
        layer: The layer.
        tie: The tie to apply. Its attributes `source`, `seen`, `own` and `inside` are set.
        source: The variable.
        owner: The layer that the variable belongs to: its LoRA adapters apply to the tied layer.
    """
    old = named_weights(layer)[tie.weight]
    transform = _keras.AS_IT_IS if tie.transform is None else _keras.TRANSFORMS[tie.transform]
    seen = _keras.Tied(source, owner_of(layer, source) or owner, transform, old)
    before = [known for known in all_ties(layer) if known.weight == tie.weight]
    held = before[0].seen if before else None
    users = [
        user for user in _keras.layers_inside(layer) if _exchange(user, old, held, source, seen)
    ]
    _drop_adapters(layer, users, old, tie.weight)
    for user in {id(x): x for x in (layer, *users)}.values():
        become_tied(user)
    for user in users:
        others = [known for known in uses(user) if known not in before]
        remember(user, uses=(*others, tie))
    if not tie.own:
        tie.own = {name: vars(old)[name] for name in OWN}
    tie.source, tie.seen = source, seen
    tie.inside = owns(layer, source)
    others = [known for known in all_ties(layer) if known.weight != tie.weight]
    remember(layer, ties=(*others, tie))
    _track_all(layer)


def _drop_adapters(layer: Any, users: list[Any], old: Any, weight: str) -> None:
    """Forget the adapters of a weight that is tied: those of the source apply to it."""
    for user in users:
        dropped = _keras.sum_of(user, old)
        if dropped is not None:
            _keras.untrack(user, dropped.factors)
            left = tuple(one for one in record_of(user).sums if one is not dropped)
            remember(user, sums=left)
    state = record_of(layer).adapted
    if state is not None:
        remember(layer, adapted=state.without(weight))


def take_back(layer: Any, tie: Tie, variable: Any) -> None:
    """Replace a tie of a layer by its own variable. No other model may use the layer.

    Args:
        layer: The layer, as a copy of the plain class: see `shared_copy` and `plain_class`.
        tie: The tie, among those of the layer.
        variable: The variable.
    """
    for user in _keras.layers_inside(layer):
        if tie in uses(user):
            _exchange(user, tie.source, tie.seen, variable, variable)
            left = tuple(known for known in uses(user) if known is not tie)
            remember(user, uses=left)
            if left:
                become_tied(user)
    ties = tuple(t for t in all_ties(layer) if t is not tie)
    remember(layer, ties=ties)
    if ties:
        become_tied(layer)
    _track_all(layer)


def look_again(layer: Any) -> None:
    """Update the views in a wrapper: the layer inside may have different variables now."""
    views = [v for store in _keras.tracked(layer) for v in store if isinstance(v, _keras.View)]
    # A `layers.Renamed` has no views: its variables are those of the layer inside.
    held = [_keras.view(weight) for weight in unwrapped(layer).weights] if views else []
    for old, new in zip(views, held, strict=False):
        if old is not new:
            _exchange(layer, old, None, new, new)
    for new in held[len(views) :]:  # adapters of the source of a tie
        _keras.track(layer, new)
    if len(held) > len(views):
        layer.__dict__["_frozen_weights"] = held
    _track_all(layer)


def own_variable(tie: Tie) -> Any:
    """Return a variable like the one that a tie replaced, with the value the tie gives it."""
    # Contiguous, as when loaded from a file: on PyTorch, sums depend on the memory layout.
    new = _keras.variable_like(
        tie.source, np.array(keras.ops.convert_to_numpy(tie.seen), order="C")
    )
    new.__dict__.update(tie.own)
    if tie.seen.adapters:  # the adapters were trained in its place
        new.trainable = any(adapter.trainable for adapter in tie.seen.adapters)
    return new


def shared_copy(layer: Any, plain: bool = False, instead: Mapping[int, Any] | None = None) -> Any:
    """Return a layer like another, with the same variables.

    Args:
        layer: The layer.
        plain: Whether its class must be the plain one, without ties, as `take_back` needs it.
        instead: For the `id` of a variable, the variable to use instead.
    """
    instead = instead or {}
    inside = {id(x) for x in _keras.layers_inside(layer)}

    def variable(old: Any) -> Any:
        if isinstance(old, _keras.Adapted | _keras.Joined):
            return old.copied(copier)
        if id(old) in instead or not isinstance(old, _keras.Tied | _keras.View):
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
        around = layer.__dict__.get(name)  # not copied: a layer of the model around this one
        copier.put(around, around)
    try:
        new = copier(layer)
    except TypeError as error:
        raise WeightsError(
            f"{type(layer).__name__} {layer.name!r} cannot be made again around another variable: "
            f"{words_of(error)}. Let it hold what it uses in its own attributes."
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
    """Replace a variable: `new` in Keras's tracking, `seen` elsewhere; say if it was tracked."""
    found = _keras.put_in_place_of(layer, old, new)
    adapted = _keras.sum_of(layer, old)
    olds = [item for item in (old, old_seen, adapted) if item is not None]
    _keras.use_instead(layer, olds, seen)
    return found
