"""Which positions of which axes must be removed together: a union of positions over links."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """One axis of a tensor, of a weight, or a number in a configuration.

    Attributes:
        holder: What has the axis: the key of a value, `("weight", id)`, `("number", id, path)`.
        at: Which of its axes.
        size: How many positions it has.
    """

    holder: Hashable
    at: int
    size: int


@dataclass(frozen=True)
class Link:
    """Pairs of positions that are removed together: `mine[i]` of `one` with `its[i]` of `other`."""

    one: Axis
    other: Axis
    mine: np.ndarray
    its: np.ndarray

    @classmethod
    def same(cls, one: Axis, other: Axis) -> Link:
        """Return the pairs of equal positions of two axes of one size."""
        positions = _positions(one.size)
        return cls(one, other, positions, positions)

    def turned(self) -> Link:
        return Link(self.other, self.one, self.its, self.mine)


@functools.lru_cache(256)
def _positions(size: int) -> np.ndarray:
    found = np.arange(size)
    found.flags.writeable = False
    return found


class Closure:
    """Positions of axes in classes: what is in one class is removed together.

    Links are asked for when an axis is first reached, so what no source reaches costs nothing. A
    link is followed only from the positions that are reached: of a concatenation, only the part
    behind them.

    Args:
        links: Returns the links that begin at an axis.
    """

    def __init__(self, links: Callable[[Axis], Iterable[Link]]) -> None:
        self._links = links
        self._asked: dict[Axis, list[Link]] = {}
        self._labels: dict[Axis, np.ndarray] = {}
        self._classes: dict[Axis, np.ndarray] = {}  # until more is reached
        self._same: dict[bytes, np.ndarray] = {}
        self._parent = np.zeros(0, "int64")

    def reach(self, axis: Axis) -> np.ndarray:
        """Return the class of each position of an axis, after all that they reach is found."""
        labels = self._of(axis)
        new = np.flatnonzero(labels < 0)
        if len(new):
            self._classes.clear()
            self._same.clear()
            first = len(self._parent)
            self._parent = np.concatenate([self._parent, first + np.arange(len(new))])
            labels[new] = first + np.arange(len(new))
            self._spread(axis, new)
        return self.classes(axis)

    def classes(self, axis: Axis) -> np.ndarray:
        """Return the class of each position of an axis; -1 for what nothing reached.

        Axes of the same classes have the same array, which must not be changed.
        """
        if axis not in self._classes:
            labels = self._labels.get(axis, np.full(axis.size, -1, "int64"))
            known = labels >= 0
            found = np.where(known, self._roots(np.where(known, labels, 0)), -1).astype("int64")
            found.flags.writeable = False
            self._classes[axis] = self._same.setdefault(found.tobytes(), found)
        return self._classes[axis]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that were reached, in the order in which that happened."""
        return tuple(self._labels)

    @property
    def axes_known(self) -> Mapping[Axis, object]:
        """The same axes, to ask whether one was reached."""
        return self._labels

    def _of(self, axis: Axis) -> np.ndarray:
        if axis not in self._labels:
            self._labels[axis] = np.full(axis.size, -1, "int64")
        return self._labels[axis]

    def _spread(self, axis: Axis, positions: np.ndarray) -> None:
        waiting = deque([(axis, positions)])
        while waiting:
            axis, new = waiting.popleft()
            if axis not in self._asked:
                self._asked[axis] = list(self._links(axis))
            reached = np.zeros(axis.size, bool)
            reached[new] = True
            for link in self._asked[axis]:
                if link.mine is link.its:  # equal positions, as mostly
                    mine = its = new
                else:
                    used = reached[link.mine]
                    mine, its = link.mine[used], link.its[used]
                if len(mine):
                    fresh = self._join(self._of(axis)[mine], self._of(link.other), its)
                    if len(fresh):
                        waiting.append((link.other, fresh))

    def _join(self, mine: np.ndarray, labels: np.ndarray, its: np.ndarray) -> np.ndarray:
        """Unite labels with those at some positions; return the positions that had none."""
        now = labels[its]
        unlike = now != mine
        if not unlike.any():
            return its[:0]
        fresh = now < 0
        labels[its[fresh]] = mine[fresh]
        now = labels[its]
        unlike = now != mine
        if unlike.any():
            ones, others = self._roots(mine[unlike]), self._roots(now[unlike])
            for one, other in set(zip(ones.tolist(), others.tolist(), strict=True)):
                self._unite(one, other)
        new = its[fresh]
        return new if (new[1:] > new[:-1]).all() else np.unique(new)

    def _unite(self, one: int, other: int) -> None:
        one, other = (int(self._roots(np.array([x]))[0]) for x in (one, other))
        self._parent[max(one, other)] = min(one, other)

    def _roots(self, labels: np.ndarray) -> np.ndarray:
        if not len(self._parent):
            return labels
        while True:
            above = self._parent[labels]
            if np.array_equal(above, labels):
                return labels
            self._parent[labels] = self._parent[above]
            labels = above
