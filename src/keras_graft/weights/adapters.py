"""LoRA adapters when weights are copied: merged if the target has none, and never dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.parameters import variable_behind
from keras_graft.weights.address import Group, Weight
from keras_graft.weights.match import Pairs

Found = tuple[Weight, Any, list[Weight]]
"""A weight with adapters, the layer that has them, and the adapters themselves."""

Owners = dict[int, tuple[Weight, Any]]
"""By the identity of an adapter: the weight it is for, and the layer of that."""


def without_adapters(group: Group) -> Group:
    """Leave Keras's adapters out of a model loaded from a file, which holds merged weights.

    The adapters of `kg.lora` stay: a file holds them beside the weights.
    """
    for weight, owner, factors in list(_found(group)):
        if _keras.sum_of(owner, weight.variable) is None:
            _leave_out(group, factors)
    return group


def merge(origin: Group, into: Group) -> None:
    """Merge the adapters of a source into its weights, if the target has no adapters.

    A weight that both models share stays as it is: it cannot have both values.
    """
    shared = {id(variable_behind(w.variable)) for w in into.weights() if w.variable is not None}
    if any(_keras.is_adapter(w.variable) for w in into.weights() if w.variable is not None):
        return
    for weight, owner, factors in list(_found(origin)):
        if id(variable_behind(weight.variable)) not in shared:
            _merge(origin, weight, owner, factors)


def settled(origin: Group, into: Group, pairs: Pairs) -> Pairs:
    """Return the pairs, with adapters merged unless the target has equal ones (shape and scale)."""
    there = {id(weight): (owner, factors) for weight, owner, factors in _found(into)}
    target = {id(its): weight for weight, its in pairs.items()}
    for weight, owner, factors in list(_found(origin)):
        mine = target.get(id(weight))
        if mine is None or mine.variable is weight.variable or not factors:
            continue
        other, others = there.get(id(mine), (None, []))
        alike = len(others) == len(factors) and all(
            pairs.get(a) is b and a.shape == b.shape for a, b in zip(others, factors, strict=True)
        )
        if alike and (
            _keras.scales_of(owner, weight.variable) == _keras.scales_of(other, mine.variable)
        ):
            continue
        if _merge(origin, weight, owner, factors):
            gone = {id(factor) for factor in factors}
            pairs = {a: b for a, b in pairs.items() if id(b) not in gone}
    return pairs


def idle(into: Group) -> set[int]:
    """Return the adapters of a target that add nothing, such as those that were never trained."""
    return {
        id(factor)
        for _, _, factors in _found(into)
        if factors and not any(np.any(factor.read()) for factor in factors[1::2])
        for factor in factors
    }


def owners(origin: Group) -> Owners:
    """Return what the adapters of a source belong to; a file has none, as it merges them."""
    return {id(f): (weight, owner) for weight, owner, factors in _found(origin) for f in factors}


def check_not_lost(left: Weight, owned: Owners, used: set[Weight]) -> None:
    """Refuse to copy a weight without its adapters, even if other weights may be left over.

    Args:
        left: A weight that is left over.
        owned: What `owners` returns for the source.
        used: The weights that are copied.

    Raises:
        WeightsError: If the weight left over is an adapter of a weight that is copied.
    """
    if id(left) not in owned:
        return
    weight, owner = owned[id(left)]
    if weight in used:
        raise WeightsError(
            f"transplant: {weight.address!r} of the source has LoRA adapters "
            f"({left.address!r}) that the target lacks, and cannot be merged with them here: it is "
            f"{weight.dtype}, in a quantized layer ({owner.quantization_mode}). Save the source and "
            "give the file: Keras merges them when it saves. Or name them in keep=, to leave them "
            "out."
        )


def _found(group: Group) -> Iterator[Found]:
    known = {id(w.variable): w for w in group.weights()}
    for inner in group.walk():
        for weight in inner.own if inner.layer is not None else ():
            owner = inner.layer
            for tie in _ties.ties_of(owner):
                if tie.source is weight.variable:
                    owner = tie.seen.owner
            factors = _keras.adapters_of(owner, weight.variable)
            if factors:
                yield weight, owner, [known[id(v)] for v in factors if id(v) in known]


def _merge(group: Group, weight: Weight, owner: Any, factors: list[Weight]) -> bool:
    if not weight.dtype.startswith(("float", "bfloat")):
        return False  # adding to integers means nothing: the adapters stay, and are left over
    weight.read = lambda: np.array(
        keras.ops.convert_to_numpy(_keras.with_adapters(owner, weight.variable))
    )
    weight.merged = True
    _leave_out(group, factors)
    return True


def _leave_out(group: Group, weights: list[Weight]) -> None:
    gone = {id(weight) for weight in weights}
    for inner in group.walk():
        inner.own = [weight for weight in inner.own if id(weight) not in gone]
