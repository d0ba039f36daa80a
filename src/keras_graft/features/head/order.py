"""In which order samples are given: the part of one reader, and blocks that are read in sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Share:
    """The part of the samples that one of several readers gets in each epoch.

    All parts have the same length, and no sample is in two, unless some are repeated.

    Attributes:
        samples: How many samples all readers have together.
        rank: The number of this reader.
        world: How many readers there are.
        remainder: What to do if the samples cannot be divided: `"drop"` some, or `"repeat"` some.
    """

    samples: int
    rank: int = 0
    world: int = 1
    remainder: Literal["drop", "repeat"] = "drop"

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self.world)
        return whole + (1 if rest and self.remainder == "repeat" else 0)

    @property
    def dropped(self) -> int:
        """How many samples no reader gets in an epoch."""
        return max(0, self.samples - len(self) * self.world)

    @property
    def repeated(self) -> int:
        """How many samples are given twice in an epoch."""
        return max(0, len(self) * self.world - self.samples)

    def of(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """Return what this reader gets of an order of all samples.

        The batches of the same number of all readers are together one batch of that order, `world`
        times as large. So a step of all readers is a step of one that has the larger batches.
        """
        if self.world == 1:
            return order
        own = np.arange(len(self))
        batch, place = np.divmod(own, batch_size)
        sizes = np.minimum(batch_size, len(self) - batch * batch_size)  # the last may be smaller
        return order[(batch * batch_size * self.world + self.rank * sizes + place) % self.samples]


def edges(starts: np.ndarray, rows: int) -> np.ndarray:
    """Return the first rows of blocks, and the end: no block lies in two shards.

    Args:
        starts: The first rows of the shards, and the end.
        rows: The most rows of a block.

    >>> edges(np.array([0, 5, 5, 7]), 2).tolist()
    [0, 2, 4, 5, 7]
    """
    counts = -(-np.diff(starts) // rows)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    inside = (np.arange(counts.sum()) - first) * rows
    return np.append(np.repeat(starts[:-1], counts) + inside, starts[-1])


class BlockOrder:
    """An epoch in which blocks come in a random order, and a window of them is mixed.

    Of every epoch it keeps the order of the blocks; that of the samples is drawn for one window
    at a time. The windows of a reader are a stretch of the blocks, so it reads no others.

    Args:
        edges: The first rows of the blocks, and the end.
        share: The part of the samples that is given.
        window: Rows that are mixed with each other.
        draws: The seed, and the number of the epoch.
    """

    def __init__(self, edges: np.ndarray, share: Share, window: int, draws: list[int]) -> None:
        order = np.random.default_rng(draws).permutation(len(edges) - 1)
        self._starts = edges[:-1][order]
        self._ends = np.cumsum(np.diff(edges)[order])
        self._share, self.window, self._draws = share, window, draws

    def __len__(self) -> int:
        return len(self._share)

    def stretches(self, number: int) -> list[tuple[int, int]]:
        """Return the rows of a window, as pairs of a first row and an end, in the order of the file."""
        first = self._share.rank * len(self) + number * self.window
        stop = min(first + self.window, (self._share.rank + 1) * len(self))
        found = []
        while first < stop:
            at = (
                first % self._share.samples
            )  # after the last come the first again: these are repeated
            block = int(np.searchsorted(self._ends, at, side="right"))
            size = int(self._ends[block] - (self._ends[block - 1] if block else 0))
            inside = at - int(self._ends[block]) + size
            count = min(size - inside, stop - first)
            start = int(self._starts[block]) + inside
            found.append((start, start + count))
            first += count
        return sorted(found)

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of a window, in the order of the files."""
        return np.concatenate([np.arange(*stretch) for stretch in self.stretches(number)])

    def mixed(self, number: int) -> np.ndarray:
        """Return the order in which the rows of a window are given."""
        count = min(self.window, len(self) - number * self.window)
        return np.random.default_rng([*self._draws, 1 + number]).permutation(count)


def mixing(labels: Any, order: np.ndarray) -> tuple[float, float]:
    """Return how well an order mixes samples.

    Args:
        labels: The label of each sample.
        order: The samples in the order in which they are given.

    Returns:
        How many samples with the same label follow each other in the mean; and the mean distance of
        neighbours, as a share of all samples (1/3 for a random order).

    >>> mixing([0, 0, 1, 1], np.array([0, 2, 1, 3]))
    (1.0, 0.4166666666666667)
    """
    given = np.asarray(labels)[order]
    runs = 1 + int((given[1:] != given[:-1]).sum())
    return len(order) / runs, float(np.abs(np.diff(order)).mean() / len(order))
