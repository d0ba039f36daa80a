"""Find samples in a store by what they hold, whatever their order is."""

from __future__ import annotations

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.store.column import INPUTS, LABELS
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.manifest import Manifest
from keras_graft.features.store.shards import starts
from keras_graft.printable import words_of

MISSING = -1
"""The place of a sample that is not in the store."""
OTHER_LABELS = -2
"""The place of a sample whose inputs are in the store, with other targets, weights or keys."""


class Samples:
    """The samples of a store, those that were left out too, known by their digests.

    Digests are read shard by shard when they are needed: data in the order of the store needs only
    those of its own samples.

    Args:
        folder: The folder of the store.
        manifest: Its manifest.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        total = manifest.samples
        self._inputs, self._labels = np.zeros((2, total), np.uint64)
        self._rows = np.full(total, MISSING)  # those that were left out have no row
        self._read = self._read_shards = self._read_rows = 0
        self._used = np.zeros(total, bool)
        self._next = 0
        self._sorted: np.ndarray | None = None
        self._first_unused: dict[int, int] = {}

    @property
    def left(self) -> int:
        """How many samples were not matched yet."""
        return int(len(self._used) - self._used.sum())

    def left_out(self, places: np.ndarray) -> np.ndarray:
        """Return which of these samples of the store have no row."""
        return self._rows[places] == MISSING

    def match(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the places of samples in the store, each place once, and take them from it.

        A place is the number of a sample in the order of the store, or `MISSING` or `OTHER_LABELS`.

        Args:
            inputs: The digests of their inputs.
            labels: The digests of their targets, weights and keys.
        """
        places = np.full(len(inputs), MISSING)
        stop = min(self._next + len(inputs), len(self._used))
        ordered = slice(self._next, stop)
        self._need(stop)
        count = stop - self._next
        same = (self._inputs[ordered] == inputs[:count]) & ~self._used[ordered]
        same &= (self._labels[ordered] == labels[:count]) | (self._rows[ordered] == MISSING)
        if same.all():
            places[:count] = np.arange(self._next, stop)
            self._used[ordered], self._next = True, stop
        else:
            count = 0
        rest = np.arange(count, len(inputs)) if self.left else ()
        for i in rest:
            places[i] = self._place(inputs[i], labels[i])
        found = places[places >= 0]
        if len(found):
            self._next = int(found[-1]) + 1
        return places

    def _place(self, inputs: np.uint64, labels: np.uint64) -> int:
        order = self._order()
        low, high = (
            int(np.searchsorted(self._inputs, inputs, side, sorter=order))
            for side in ("left", "right")
        )
        # Of many equal samples, those at the front are taken first.
        start = self._first_unused.get(low, low)
        while start < high and self._used[order[start]]:
            start += 1
        self._first_unused[low] = start
        unused = order[start:high][~self._used[order[start:high]]]
        if not len(unused):
            return MISSING
        fits = (self._labels[unused] == labels) | (self._rows[unused] == MISSING)
        if not fits.any():
            return OTHER_LABELS
        place = int(unused[fits.argmax()])
        self._used[place] = True
        return place

    def rows(self, inputs: np.ndarray) -> np.ndarray:
        """Return the rows with these inputs: of several the first, and `MISSING` where none has."""
        order = self._order()
        order = order[self._rows[order] != MISSING]
        if not len(order):
            return np.full(len(inputs), MISSING)
        known = self._inputs[order]
        at = np.searchsorted(known, inputs).clip(max=len(order) - 1)
        return np.where(known[at] == inputs, self._rows[order[at]], MISSING)

    def inputs(self) -> np.ndarray:
        """Return the digests of the inputs of all rows."""
        self._need(len(self._used))
        return self._inputs[self._rows != MISSING]

    def _order(self) -> np.ndarray:
        """Return the samples sorted by the digests of their inputs."""
        if self._sorted is None:
            self._need(len(self._used))
            self._sorted = np.argsort(self._inputs, kind="stable")
        return self._sorted

    def _need(self, samples: int) -> None:
        """Read the digests of the first samples of the store."""
        shards = self._manifest.shards
        while self._read < samples:
            shard = shards[self._read_shards]
            own = slice(self._read, self._read + shard.samples)
            out = np.array([sample.index - self._read for sample in shard.skipped], int)
            kept = np.ones(shard.samples, bool)
            kept[out] = False
            for column, into in ((INPUTS, self._inputs), (LABELS, self._labels)):
                into[own][kept] = self._column(shard, column)
            self._inputs[own][out] = [int(sample.inputs, 16) for sample in shard.skipped]
            self._rows[own][kept] = np.arange(self._read_rows, self._read_rows + shard.rows)
            self._read += shard.samples
            self._read_rows += shard.rows
            self._read_shards += 1

    def _column(self, shard: ShardEntry, column: str) -> np.ndarray:
        """Return a column of digests, without fetching the whole shard."""

        def piece(start: int, length: int) -> bytes:
            return self._folder.piece(shard.file, start, length)

        try:
            start = starts(shard.bytes, piece, self._manifest.columns, shard.rows)[column]
            found = np.frombuffer(piece(start, 8 * shard.rows), np.uint64)
            if len(found) != shard.rows:
                raise ValueError("it ends too early")
        except ValueError as error:
            raise FeatureError(
                f"{self._folder}: shard {shard.file!r} cannot be read: {words_of(error)}. "
                f"kg.features.FeatureStore({str(self._folder)!r}).verify() says what to do."
            ) from error
        return found
