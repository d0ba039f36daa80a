"""Read rows of shards by their numbers, and only those."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

from keras_graft.errors import FeatureError
from keras_graft.features.store.column import KINDS, Column
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder, Parts
from keras_graft.features.store.loading import load
from keras_graft.features.store.manifest import NAME, Manifest
from keras_graft.features.store.shards import dtype_of, starts
from keras_graft.printable import words_of

_SHORT_ALL = 16 << 20
"""The largest column of short rows that is kept in memory, in bytes."""
OPEN = 200 if resource is None else min(200, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5)
"""The most files that are open at once. Several stores may be used together."""
_AHEAD = 16
"""How many blocks are announced to the system before they are read, so that it can fetch them."""


class Shard:
    """One open shard, of which single rows are read.

    The library of the format maps the file. Linux counts more pages of a map as resident than are
    touched, and short rows take longer that way.

    Args:
        folder: The folder of the shard.
        entry: Its entry in the manifest.
        columns: Its columns, from the manifest.
        known: The first byte of each column, if it was open before.
    """

    def __init__(
        self, folder: Folder, entry: ShardEntry, columns: Mapping[str, Column],
        known: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.parts = folder.open(entry.file, entry.checksum, entry.bytes)
        self.starts = known or starts(
            entry.bytes, lambda start, length: self.bytes(start, length).tobytes(), columns, entry.rows
        )  # fmt: skip

    def bytes(self, start: int, length: int) -> np.ndarray:
        """Return some bytes of the file."""
        data = np.empty(length, np.uint8)
        self.parts.read_into(start, data.data)
        return data


class Rows:
    """Reads rows of many shards, in any order, in bounded memory.

    Args:
        folder: The folder of the shards.
        manifest: The manifest.
        stamp: The stamp of the manifest's file when it was read.
        kept: A store of at most so many bytes is kept in memory.
        short: Columns whose rows have at most so many bytes are kept in memory.
        most_open: The most files that are open at once.
    """

    def __init__(
        self, folder: Folder, manifest: Manifest, stamp: Any, *,
        kept: int = 64 << 20, short: int = 64, most_open: int = OPEN,
    ) -> None:  # fmt: skip
        self._folder, self._stamp = folder, stamp
        self._shards, self._columns = manifest.shards, manifest.columns
        self._starts = np.concatenate([[0], np.cumsum(self._shards.array["rows"])])
        self._open, self._most_open = dict[int, Shard](), most_open
        # To read the begin of a file again takes a disk as long as to read a block. Most are equal.
        self._places: dict[int, dict[str, int]] = {}
        self._equal: dict[frozenset[tuple[str, int]], dict[str, int]] = {}
        self._whole: dict[str, tuple[np.ndarray, set[int]]] = {}
        # Reading a row takes as long as a step of a small head.
        whole = self._shards.bytes <= kept
        self._kept = {
            name for name, column in self._columns.items()
            if name.partition("/")[0] in KINDS
            and (whole or (column.bytes <= short and self._starts[-1] * column.bytes <= _SHORT_ALL))
        }  # fmt: skip
        self._lock = threading.Lock()

    def _shard(self, number: int) -> Shard:
        with self._lock:
            shard = self._open.pop(number, None) or self._opened(number)
            self._open[number] = shard
            if len(self._open) > self._most_open:  # the least recently used
                self._open.pop(next(iter(self._open)))
            return shard

    def _opened(self, number: int) -> Shard:
        """Open a shard; refuse it if the store was replaced meanwhile."""
        entry = self._shards[number]
        try:
            shard = Shard(self._folder, entry, self._columns, self._places.get(number))
        except (OSError, ValueError) as error:
            self._check_same()
            raise FeatureError(
                f"{self._folder}: shard {entry.file!r} cannot be read: {words_of(error)}. "
                f"kg.features.FeatureStore({str(self._folder)!r}).verify() says what to do."
            ) from error
        self._check_same()
        own = shard.starts
        self._places[number] = self._equal.setdefault(frozenset(own.items()), own)
        return shard

    def _check_same(self) -> None:
        """Refuse a store that was replaced since it was opened. One that has grown is fine."""
        stamp = self._folder.stamp(NAME)
        if stamp != self._stamp:
            now = load(self._folder)
            if now is None or now.shards[: len(self._shards)] != self._shards:
                raise FeatureError(
                    f"{self._folder} was computed again since it was opened, so rows of both "
                    "would be mixed: open it again."
                )
            self._stamp = stamp

    def take(self, indices: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """Return rows of some columns, by their numbers and in that order."""
        order = np.argsort(indices, kind="stable")  # in the order of the files
        ordered = indices[order]
        homes = np.searchsorted(self._starts, ordered, side="right") - 1
        found = {}
        for name in names:
            column = self._columns[name]
            if name in self._kept:
                rows = _aligned(len(indices) * column.bytes)
                whole = self._in_memory(name, column.bytes, set(homes.tolist()))
                # With "clip" NumPy writes in place; all numbers are valid.
                whole.take(indices, 0, rows.reshape(len(indices), column.bytes), "clip")
            else:
                local = ordered - self._starts[homes]
                rows = self._read(name, column.bytes, homes, local, order)
            found[name] = rows.reshape(-1).view(dtype_of(column.dtype)).reshape(
                len(indices), *column.shape
            )  # fmt: skip
        return found

    def _in_memory(self, name: str, width: int, needed: set[int]) -> np.ndarray:
        """Return a column that is kept in memory, after reading the rows of these shards."""
        if name not in self._whole:
            self._whole[name] = np.empty((self._starts[-1], width), np.uint8), set()
        whole, there = self._whole[name]
        for number in needed - there:
            start, stop = self._starts[number : number + 2].tolist()
            shard = self._shard(number)
            data = shard.bytes(shard.starts[name], (stop - start) * width)
            whole[start:stop] = data.reshape(stop - start, width)
            there.add(number)
        return whole

    def _read(
        self, name: str, width: int, homes: np.ndarray, local: np.ndarray, places: np.ndarray
    ) -> np.ndarray:
        """Read rows of a column from the files.

        Args:
            name: The column.
            width: The bytes of a row.
            homes: For each row the number of its shard, in ascending order.
            local: For each row its number in the shard.
            places: For each row its place in the result.
        """
        into = _aligned(len(homes) * width)
        lines = into.data
        # Rows that are neighbours in the file and in the result are read at once.
        apart = (np.diff(homes) != 0) | (np.diff(local) != 1) | (np.diff(places) != 1)
        first = np.flatnonzero(np.concatenate([[True], apart]))
        counts = np.diff(first, append=len(homes))
        current, shard, start = -1, None, 0
        waiting: deque[tuple[Parts, int, memoryview]] = deque()
        most = min(_AHEAD, self._most_open // 4)  # files of these stay open
        for number, row, place, count in zip(
            homes[first].tolist(), local[first].tolist(), (places[first] * width).tolist(),
            (counts * width).tolist(), strict=True,
        ):  # fmt: skip
            if number != current or shard is None:
                current, shard = number, self._shard(number)
                start = shard.starts[name]
            at, part = start + row * width, lines[place : place + count]
            if count == width or not most:
                shard.parts.read_into(at, part)
                continue
            shard.parts.ahead(at, count)
            waiting.append((shard.parts, at, part))
            if len(waiting) > most:
                parts, at, part = waiting.popleft()
                parts.read_into(at, part)
        for parts, at, part in waiting:
            parts.read_into(at, part)
        return into


def _aligned(size: int) -> np.ndarray:
    """Return new memory, aligned so that JAX and TensorFlow use it without a copy."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
