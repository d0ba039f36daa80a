"""The class of the rules in `kg.resize`, for weights of another shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_graft.weights.address import Weight

Shape = tuple[int, ...]
Fill = Callable[[Any, Shape, Weight], "np.ndarray | None"]


class Rule:
    """A rule with a name that reports print.

    Args:
        text: How it was written.
        fill: The function that makes the values.
        drops: Whether a weight of the source, by its name, may have no place in the target.
        seeks: Whether it applies to a weight if it is given for all weights, not for addresses.
        exact: Whether it is correct for the values of a layer quantized in this mode.
        beside: Whether it is only for layers in which another weight has a source.
        knows: What it corrects in values of the right shape: "ids" if rows stand for other words,
            "axes" if axes are in another order.
    """

    def __init__(
        self,
        text: str,
        fill: Fill,
        drops: Callable[[str], bool] = lambda name: False,
        seeks: Callable[[Weight], bool] = lambda weight: True,
        exact: Callable[[str], bool] = lambda mode: False,
        beside: bool = False,
        knows: str | None = None,
    ) -> None:
        self._text = text
        self._fill = fill
        self.drops = drops
        self.seeks = seeks
        self.exact = exact
        self.beside = beside
        self.knows = knows

    def __call__(self, value: np.ndarray | None, shape: Shape, weight: Weight) -> np.ndarray | None:
        """Return the values in the new shape, or None."""
        return self._fill(value, shape, weight)

    def __repr__(self) -> str:
        return self._text


def changed_axes(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Return the axes whose sizes differ; if the ranks differ, more than one."""
    if len(old) != len(new):
        return list(range(max(len(old), len(new)) + 1))
    return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
