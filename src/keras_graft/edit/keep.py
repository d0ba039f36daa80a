"""Keep trained values when a layer is replaced: `weights="keep"`."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import EditError
from keras_graft.graph.names import listed
from keras_graft.graph.record import remember
from keras_graft.look.diff_report import Kept
from keras_graft.model.recreate import assign


def match_weights(old: Any, new: Any, verb: str) -> tuple[Kept, list[tuple[Any, Any]]]:
    """Pair the weights of two layers: in order if they are alike, else by name within the layer.

    Returns:
        The report of what is kept; and the pairs (new variable, old variable).

    Raises:
        EditError: If a pair differs in shape, or if there is none.
    """
    before, now = _ties.named_weights(old), _ties.named_weights(new)
    unlike = not before.keys() & now.keys()
    if _plainly(before) == _plainly(now) or (unlike and _inmost(before) == _inmost(now)):
        # The same weights in the same order. Keras numbers unnamed layers inside a layer: the
        # second one in the old layer may have the name of the first one in the new layer. And
        # the names of enclosing wrappers depend on how the layer was built.
        now = dict(zip(before, now.values(), strict=True))
    tied = [tie.weight for tie in _ties.ties_of(old)]  # their values belong to another layer
    before = {name: weight for name, weight in before.items() if name not in tied}
    pairs = [(name, now[name], before[name]) for name in now if name in before]
    if not pairs and not tied:
        raise EditError(
            f'{verb}: weights="keep", and {type(new).__name__} {new.name!r} has none of the '
            f"weights of {old.name!r}: {listed(now)} against {listed(before)}."
        )
    for name, target, source in pairs:
        if tuple(target.shape) != tuple(source.shape):
            raise EditError(
                f'{verb}: weights="keep", and {name!r} is {tuple(source.shape)} in {old.name!r} '
                f"and {tuple(target.shape)} in {new.name!r}. Give it the same shape, or leave "
                "weights= out."
            )
    lost = [n for n, v in before.items() if n not in now and _keras.is_adapter(v)]
    if any(np.any(keras.ops.convert_to_numpy(before[name])) for name in lost if name[-2:] == "_b"):
        raise EditError(
            f'{verb}: weights="keep", and {old.name!r} has LoRA adapters ({listed(lost)}), for which '
            f"{new.name!r} has no place. Give it lora_rank=, or copy the weights with the "
            "adapters merged: kg.transplant(old, new), and leave weights= out."
        )
    report = Kept(
        old.name,
        (*tied, *(name for name, _, _ in pairs)),
        tuple(name for name in before if name not in now),
        tuple(name for name in now if name not in before and name not in tied),
    )
    return report, [(target, source) for _, target, source in pairs]


def carry(new: Any, report: Kept, pairs: list[tuple[Any, Any]]) -> None:
    """Copy the trained values, and record on the layer what it got."""
    for target, source in pairs:
        assign(target, source)
    remember(new, kept=report)


def _plainly(weights: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Return names without the numbers that Keras adds, and shapes."""
    return [(re.sub(r"_\d+(?=/|$)", "", name), tuple(w.shape)) for name, w in weights.items()]


def _inmost(weights: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the same without the names of the enclosing layers."""
    return [(name.rpartition("/")[2], shape) for name, shape in _plainly(weights)]
