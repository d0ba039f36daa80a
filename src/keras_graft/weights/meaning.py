"""Values of the right shape that mean something else: another vocabulary, another axis order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_graft.printable import quoted
from keras_graft.weights.address import Group, Weight
from keras_graft.weights.layouts import as_torch, shapes_are_turned
from keras_graft.weights.lookups import difference, has_words, lookups_in_front
from keras_graft.weights.suggest import suggestions, turned


class Meaning:
    """Compares what the weights of two sides mean, beyond their shapes.

    Args:
        origin: The source.
        into: The target.
        pairs: The source of each weight of the target that has one.
    """

    def __init__(self, origin: Group, into: Group, pairs: Mapping[Weight, Weight]) -> None:
        self._written = origin.format
        self._turned = shapes_are_turned(pairs)
        mine = {} if origin.layer is None else lookups_in_front(into.layer)
        self._lookups = ({} if not mine else lookups_in_front(origin.layer), mine)

    def wrong(self, its: Weight, weight: Weight) -> tuple[str | None, str | None]:
        """Return which meaning differs ("ids" or "axes", for rules), and why; else (None, None).

        Args:
            its: The weight of the source.
            weight: The weight of the target.
        """
        if weight.name in ("embeddings", "kernel"):
            why = difference(*self._in_front(its, weight))
            if why is not None:
                return "ids", why
        if its.shape == weight.shape:
            why = as_torch(its, weight, self._written, self._turned)
            if why is not None:
                return "axes", f"{why}: its axes are in another order than Keras's"
        return None, None

    def suggested(self, its: Weight, weight: Weight, wrong: str | None) -> list[str]:
        """Return the rules that may fit.

        Args:
            its: The weight of the source.
            weight: The weight of the target.
            wrong: What else is wrong: "ids", "axes" or None.
        """
        if wrong == "axes":
            return turned(its.shape, weight)
        if wrong is None:
            return suggestions(its.shape, weight)
        sides = self._in_front(its, weight)
        if not all(len(side) == 1 and has_words(side[0]) for side in sides):
            return []
        old, new = (quoted(side[0].name) for side in sides)
        return [f"tokens(source.get_layer({old}), target.get_layer({new}))"]

    def _in_front(self, its: Weight, weight: Weight) -> list[Any]:
        both = zip(self._lookups, (its, weight), strict=True)
        return [found.get(id(w.layer), ()) for found, w in both]
