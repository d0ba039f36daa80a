"""A store of features: a folder with shards and a manifest. It only grows."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.data import batches
from keras_graft.features.store.checksum import digests
from keras_graft.features.store.column import KINDS
from keras_graft.features.store.content import Samples
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.keep import check_sizes, way_out
from keras_graft.features.store.loading import load
from keras_graft.features.store.manifest import NAME, Manifest, unpacked
from keras_graft.features.store.remote import Remote, folder_at
from keras_graft.features.store.rows import OPEN, Rows
from keras_graft.features.store.shards import dtype_of, starts
from keras_graft.printable import shown, words_of
from keras_graft.tables import Table, Tabular, counted, in_bytes

_TEXTS = 1 << 20
"""Bytes of texts that are checked at once."""


class FeatureStore(Tabular):
    """Features of a trunk on the disk; prints as a table.

    Args:
        path: The folder that `kg.features.compute` wrote, or its URL.
        cache: For a URL: a local folder to keep fetched shards in. By default they are kept as
            long as the store is used.
        cache_bytes: For a URL: the most bytes that are kept. The shards that were not used for the
            longest time make room. By default it is half of what is free on that disk.

    Raises:
        FeatureError: If there is no store, if it is damaged, or if a shard is missing or cut
            short.
    """

    def __init__(
        self, path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:  # fmt: skip
        if cache_bytes is not None and not (isinstance(cache_bytes, Integral) and cache_bytes > 0):
            raise FeatureError(
                f"cache_bytes must be a whole number, 1 or more, got {shown(cache_bytes)}."
            )
        self._folder = folder_at(path, cache, cache_bytes)
        stamp = self._folder.stamp(NAME)
        found = load(self._folder)
        if found is None and "lock" in self._folder.sizes():
            raise FeatureError(
                f"{self.path} holds no features yet: computing them was begun here, and stopped before "
                "the first were stored. Call kg.features.compute again with the same data."
            )
        if found is None:
            raise FeatureError(
                f"{self.path} is not a store of features: it has no {NAME}. Make one: "
                f"kg.features.compute(trunk, data, {self.path!r}, batch_size=32)."
            )
        self.manifest: Manifest = found
        check_sizes(self._folder, found)
        files = {}
        if self.cache_bytes is not None:  # a file that is open takes room, deleted or not
            largest = max(1, int(found.shards.array["bytes"].max(initial=1)))
            files["most_open"] = max(1, min(OPEN, self.cache_bytes // largest))
        self._rows = Rows(self._folder, self.manifest, stamp, **files)
        self._samples: Samples | None = None

    @property
    def path(self) -> str:
        """The path, or the URL without its secrets."""
        return str(self._folder)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def complete(self) -> bool:
        """Whether it holds all of the data."""
        return self.manifest.complete

    @property
    def views(self) -> int:
        """How many augmented views of each sample it holds."""
        return self.manifest.views

    @property
    def bytes(self) -> int:
        """The size of all shards."""
        return self.manifest.shards.bytes

    @property
    def fetched(self) -> bool:
        """Whether shards are fetched as a whole before rows of them are read."""
        return isinstance(self._folder, Remote)

    @property
    def cache_bytes(self) -> int | None:
        """The most bytes of fetched shards that are kept, if that is known."""
        return self._folder.cache.most if isinstance(self._folder, Remote) else None

    def columns(self, *kinds: str) -> list[str]:
        """Return the names of the columns of these kinds, such as `"features"`; all by default."""
        kinds = kinds or KINDS
        return [c for c in self.manifest.columns if c.partition("/")[0] in kinds]

    def numbers(self, indices: Any) -> np.ndarray:
        """Return the numbers of samples, given as numbers or as a mask.

        Raises:
            FeatureError: If they are neither, or if there are no such samples.
        """
        try:
            array = np.asarray(indices)
        except ValueError:  # rows of different lengths
            array = np.asarray(indices, object)
        if array.dtype == bool and array.shape == (len(self),):
            return np.flatnonzero(array)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise FeatureError(
                f"Samples are given as a list of whole numbers, or as a mask of {len(self)} bools, "
                f"got {array.dtype.name} of shape {array.shape}."
            )
        if array.size and (array.min() < 0 or array.max() >= len(self)):
            raise FeatureError(f"{self.path} has the samples 0 to {len(self) - 1}.")
        return array.astype(np.intp)

    def take(self, indices: Any, *kinds: str, views: Any = None) -> dict[str, Any]:
        """Return samples in any order.

        Args:
            indices: The numbers of the samples, or a mask: a bool for each.
            *kinds: Some of `"features"`, `"targets"`, `"weights"`, `"keys"`; by default all.
            views: Which augmented view the features are of: a number from 1 on, or one for each
                sample. 0 and None: the features without augmentation.

        Returns:
            For each kind that the store has: an array, or a dict or list of arrays, as the trunk
            and the data gave them. Keys that are texts come as `str`.
        """
        indices = self.numbers(indices)
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise FeatureError(
                f"A store has no {shown(unknown[0])}: the kinds are {', '.join(KINDS)}."
            )
        kinds = kinds or KINDS
        arrays = self._read(indices, self.columns(*kinds))
        if views is not None and "features" in kinds:
            self._put_views(arrays, indices, views)
        found = {
            kind: unpacked(kind, self.manifest.layout[kind], arrays)
            for kind in kinds
            if kind in self.manifest.layout
        }
        if "keys" in found and self.manifest.columns["keys/"].text:
            try:
                found["keys"] = np.array([_text(row) for row in found["keys"]], str)
            except ValueError as error:
                raise FeatureError(
                    f"{self.path}: the keys are not texts ({words_of(error)}), so it is damaged: compute it "
                    f"again, {advice.option('resume', False)}."
                ) from error
        return found

    def _read(self, indices: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        if len(indices):
            return self._rows.take(indices, names)
        columns = self.manifest.columns
        return {n: np.empty((0, *columns[n].shape), dtype_of(columns[n].dtype)) for n in names}

    def _put_views(self, arrays: dict[str, np.ndarray], indices: np.ndarray, views: Any) -> None:
        """Replace features by those of views, where these are not 0."""
        views = np.broadcast_to(np.asarray(views), indices.shape)
        if views.dtype.kind not in "iu" or (
            views.size and not 0 <= views.min() <= views.max() <= self.manifest.views
        ):
            raise FeatureError(
                f"{self.path} has {self.manifest.views} views of each sample, numbered from 1; 0 is "
                f"without augmentation; got {shown(views.tolist())}."
            )
        names = self.columns("features")
        for view in np.unique(views[views > 0]).tolist():
            rows = np.flatnonzero(views == view)
            own = {name: f"views/{view}/{name.partition('/')[2]}" for name in names}
            found = self._read(indices[rows], [*own.values()])
            for name, column in own.items():
                if len(rows) == len(indices):
                    arrays[name] = found[column]
                else:
                    arrays[name][rows] = found[column]

    def find(self, x: Any) -> np.ndarray:
        """Return the numbers of the samples with some inputs, whatever the order of the data was.

        Args:
            x: Inputs of some samples, nested as the trunk takes them: one row for each sample.

        Returns:
            For each sample its number in the store, and -1 if it is not in the store. Of several
            samples with the same inputs it is the number of the first.

        Raises:
            FeatureError: If an earlier version of keras-graft wrote the store: it knows its samples
                by their order only.

        >>> import keras, keras_graft as kg, tempfile
        >>> trunk = kg.freeze(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = kg.features.compute(trunk, np.eye(4), folder, progress=False)
        ...     store.find(np.stack([np.eye(4)[2], np.eye(4)[0], np.ones(4)])).tolist()
        [2, 0, -1]
        """
        if not self.manifest.by_content:
            raise FeatureError(
                f"{self.path} does not know its samples by their inputs, because an earlier version of "
                f"keras-graft wrote it: compute it again, {advice.option('resume', False)}."
            )
        if self._samples is None:
            self._samples = Samples(self._folder, self.manifest)
        found = [self._samples.rows(digests(batch.x)) for batch in batches(x, 1 << 62)]
        return np.concatenate([np.empty(0, int), *found])

    def same_inputs(self, other: FeatureStore) -> bool:
        """Whether two stores are of the same inputs in the same order, as far as they know it."""
        if not (self.manifest.by_content and other.manifest.by_content):
            return True
        ours, theirs = (Samples(s._folder, s.manifest).inputs() for s in (self, other))
        return np.array_equal(ours, theirs)

    def to_numpy(self, *kinds: str) -> dict[str, Any]:
        """Return all samples, as `take` does."""
        return self.take(np.arange(len(self)), *kinds)

    def verify(self) -> int:
        """Read all shards, and compare their checksums and columns with the manifest.

        Returns:
            How many bytes were read.

        Raises:
            FeatureError: If shards are damaged or do not fit the manifest; it names them. The
                manifest's own checksum is compared whenever it is read.
        """
        shards = list(enumerate(self.manifest.shards))
        there = self._folder.sizes()
        gone = [n for n, shard in shards if shard.file not in there]
        if gone:
            raise FeatureError(
                f"{self.path}: {self._files(gone)} no longer exists. {self._way_out(gone[0])}"
            )
        bad = [n for n, shard in shards if self._folder.checksum(shard.file) != shard.checksum]
        if bad:
            raise FeatureError(
                f"{self.path}: the checksum of {self._files(bad)} does not match what was written. "
                f"{self._way_out(bad[0])}"
            )
        wrong = {n: why for n, shard in shards if (why := self._wrong(shard))}
        if wrong:
            raise FeatureError(
                f"{self.path}: {self._files([*wrong])} does not hold the rows and columns that "
                f"{NAME} names ({next(iter(wrong.values()))}), so it is damaged: compute it again, "
                f"{advice.option('resume', False)}."
            )
        return self.bytes

    def _files(self, numbers: list[int]) -> str:
        return ", ".join(repr(self.manifest.shards[n].file) for n in numbers)

    def _wrong(self, shard: ShardEntry) -> str:
        """Return how a shard contradicts the manifest; an empty text if it does not."""

        def piece(start: int, length: int) -> bytes:
            return self._folder.piece(shard.file, start, length)

        columns = self.manifest.columns
        try:
            places = starts(shard.bytes, piece, columns, shard.rows)
            for name, column in columns.items():
                if column.text and column.bytes:
                    step = max(1, _TEXTS // column.bytes) * column.bytes
                    stop = places[name] + shard.rows * column.bytes
                    for at in range(places[name], stop, step):
                        read = np.frombuffer(piece(at, min(step, stop - at)), np.uint8)
                        for row in read.reshape(-1, column.bytes):
                            _text(row)
        except ValueError as error:
            return str(error)
        return ""

    def _way_out(self, number: int) -> str:
        return way_out(self._folder, number)

    def tables(self) -> list[Table]:
        """Return what the store holds, as a table."""
        m = self.manifest
        state = "complete" if m.complete else "not complete: compute(..., resume=True) resumes it"
        if not m.shards:
            state = (
                "nothing is stored yet: it was stopped before its first samples were written. Call "
                "kg.features.compute again with the same data"
            )
        title = (
            f"{self.path}: {counted(len(self), 'sample')} in {counted(len(m.shards), 'shard')}, "
            f"{in_bytes(self.bytes)}, "
            f"{state}",
            f"trunk {m.trunk.get('structure')}, weights {m.trunk.get('weights')}; "
            + ", ".join(f"{k} {v}" for k, v in m.versions.items()),
        )
        rows = [
            (n.rstrip("/"), m.columns[n], in_bytes(m.columns[n].bytes))
            for n in self.columns(*KINDS, "views")
        ]
        found: list[Table] = [(title, ("column", "rows", "bytes/sample"), rows)]
        if m.skipped:
            head = ("sample of the data", "left out because")
            found.append(("", head, [(s.index, s.reason) for s in m.skipped]))
        return found

    def __repr__(self) -> str:
        return f"<FeatureStore {self.path!r}: {counted(len(self), 'sample')}>"


def _text(row: np.ndarray) -> str:
    return bytes(row).rstrip(b"\0").decode()
