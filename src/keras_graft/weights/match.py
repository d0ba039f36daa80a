"""Match the weights of a source with those of a target: by name, shape, order or a function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import is_one_of, listed, nearest
from keras_graft.printable import shown, words_of
from keras_graft.weights.address import Group, Weight, paired, unclear

Match = str | Callable[[str, Any], str | None]
Pairs = dict[Weight, Weight]

MATCHES = ("name", "shape", "order")


def matched(source: Group, target: Group, match: Match) -> Pairs:
    """Return the source of each weight of the target that has one.

    Raises:
        WeightsError: If `match` is invalid, needs an order that a file does not hold, or names a
            weight that the source does not have.
    """
    if callable(match):
        return _by_function(source, target, match)
    if not is_one_of(match, *MATCHES):
        raise WeightsError(
            f"transplant: match={shown(match)} is none of {', '.join(map(repr, MATCHES))}, nor a "
            "function that takes a target's address and variable and returns the source's address."
        )
    if match == "name":
        return _by_name(source, target)
    mine, its = target.weights(), source.weights()
    if any(w.variable is None for w in its):
        raise WeightsError(
            f"transplant: match={match!r} uses the order of the layers, which the file does not "
            'store. Give match="name" or a function, or load the model and give it.'
        )
    if match == "order":
        return dict(zip(mine, its, strict=False))
    by_shape: dict[tuple[int, ...], list[Weight]] = defaultdict(list)
    for weight in reversed(its):
        by_shape[weight.shape].append(weight)
    return {w: by_shape[w.shape].pop() for w in mine if by_shape[w.shape]}


def _by_name(source: Group, target: Group) -> Pairs:
    pairs: Pairs = {}
    while True:
        for weight, its in paired(source, target):
            first = pairs.setdefault(weight, its)
            if first is not its and its.variable is None and _alike(first, its):
                its.again = True  # a file holds a variable of two layers twice
        # Ignore a wrapper around the whole source: the outermost model, or one around one other.
        if pairs or source.own or len(source.inside) != 1:
            break
        source = source.inside[0]
    used = set(pairs.values())
    left = [w for w in source.weights() if w not in used]
    rest = [w for w in target.weights() if w not in pairs]
    if any(w.path is not None for w in left):
        _by_saving_path(source, target, pairs)
    elif left and left[0].variable is None:
        # Tensors may be named by the paths that Keras gives to variables, if the path is unique.
        paths: dict[str, list[Weight]] = defaultdict(list)
        for weight in rest:
            paths[weight.variable.path].append(weight)
        for weight in left:
            found = paths[weight.address.replace(".", "/")] or paths[weight.address]
            if len(found) == 1:
                pairs[found[0]] = weight
    return pairs


def _alike(a: Weight, b: Weight) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def _by_saving_path(source: Group, target: Group, pairs: Pairs) -> None:
    """Pair weights that no name identifies as Keras does when it loads: by class and position."""
    left = {w.path: w for w in unclear(source)}
    if not left:
        return
    mine = {id(w.variable): w for w in target.weights()}
    for path, variable in _keras.saving_paths(target.layer).items():
        if id(variable) in mine and path in left:
            pairs.setdefault(mine[id(variable)], left[path])


def _by_function(source: Group, target: Group, match: Callable[[str, Any], str | None]) -> Pairs:
    known = {w.address: w for w in source.weights()}
    pairs: Pairs = {}
    for weight in target.weights():
        try:
            address = match(weight.address, weight.variable)
        except Exception as error:
            raise WeightsError(
                f"transplant: match= raised {type(error).__name__} for {weight.address!r}: "
                f"{words_of(error)}. It is called with a target's address and variable, and must "
                "return the source's address, or None."
            ) from error
        if address is None:
            continue
        if not isinstance(address, str) or address not in known:
            near = nearest(str(address), known)
            hint = f" Nearest: {listed(near)}." if near else f" There are {listed(known)}."
            raise WeightsError(
                f"transplant: match= returned {shown(address)} for {weight.address!r}, but the source "
                f"has no such weight.{hint}"
            )
        pairs[weight] = known[address]
    return pairs
