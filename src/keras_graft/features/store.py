"""A store of features: a folder of shards and a manifest, that only grows."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features import manifest as _manifest
from keras_graft.features.manifest import Manifest, ShardEntry, unpacked
from keras_graft.features.remote import folder_at
from keras_graft.features.shards import Rows, header
from keras_graft.tabular import Table, Tabular

_KINDS = ("features", "targets", "weights", "keys")


class FeatureStore(Tabular):
    """Features that a trunk gave, on the disk; prints as a table.

    Args:
        path: The folder that `kg.features.compute` wrote, or its URL.
        cache: For a URL: a local folder to keep shards in once they are fetched. By default they
            are kept as long as the store is used.

    Raises:
        FeatureError: If there is none, if it is damaged, or if a shard is missing or cut short.
    """

    def __init__(
        self, path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None
    ) -> None:
        self._folder = folder_at(path, cache)
        stamp = self._folder.stamp(_manifest.NAME)
        found = _manifest.load(self._folder)
        if found is None:
            raise FeatureError(
                f"{path} is no store of features: it has no {_manifest.NAME}. Make one: "
                f"kg.features.compute(trunk, data, {str(path)!r}, batch_size=32)."
            )
        self.manifest: Manifest = found
        sizes = self._folder.sizes()
        for number, shard in enumerate(self.manifest.shards):
            size = sizes.get(shard.file)
            if size != shard.bytes:
                raise FeatureError(
                    f"{path}: shard {shard.file!r} "
                    + ("is not there" if size is None else f"has {size} bytes")
                    + f", {shard.bytes} were written. {self._way_out(number)}"
                )
        self._rows = Rows(self._folder, self.manifest, stamp)

    @property
    def path(self) -> str:
        """Where it is."""
        return str(self._folder)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def complete(self) -> bool:
        """Whether the data it is made of came to its end."""
        return self.manifest.complete

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    def columns(self, *kinds: str) -> list[str]:
        """Return the names of the columns of these kinds, such as `"features"`."""
        return [c for c in self.manifest.columns if c.partition("/")[0] in kinds]

    def numbers(self, indices: Any) -> np.ndarray:
        """Return the numbers of samples, given as such or as a mask over all.

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

    def take(self, indices: Any, *kinds: str) -> dict[str, Any]:
        """Return rows in any order.

        Args:
            indices: The numbers of the samples, or a mask: a bool for each.
            *kinds: Of `"features"`, `"targets"`, `"weights"`, `"keys"`; all if none is given.

        Returns:
            For each kind that the store has: an array, or a dict or list of arrays, as the trunk
            and the data gave them. Texts among the keys come as `str`.
        """
        indices = self.numbers(indices)
        unknown = [kind for kind in kinds if kind not in _KINDS]
        if unknown:
            raise FeatureError(f"A store has no {unknown[0]!r}: the kinds are {', '.join(_KINDS)}.")
        kinds = kinds or _KINDS
        names = self.columns(*kinds)
        if len(indices):
            arrays = self._rows.take(indices, names)
        else:
            columns = self.manifest.columns
            arrays = {n: np.empty((0, *columns[n].shape), columns[n].dtype) for n in names}
        found = {
            kind: unpacked(kind, self.manifest.layout[kind], arrays)
            for kind in kinds
            if kind in self.manifest.layout
        }
        if "keys" in found and self.manifest.columns["keys/"].text:
            found["keys"] = np.array(
                [bytes(row).rstrip(b"\0").decode() for row in found["keys"]], str
            )
        return found

    def to_numpy(self, *kinds: str) -> dict[str, Any]:
        """Return all rows, as `take` does."""
        return self.take(np.arange(len(self)), *kinds)

    def verify(self) -> int:
        """Read all shards again: compare their checksums, and their columns with the manifest's.

        Returns:
            How many bytes were read.

        Raises:
            FeatureError: If a shard is not what was written, or not what the manifest says; each
                is named. The manifest's own checksum is compared whenever it is read.
        """
        shards = list(enumerate(self.manifest.shards))
        there = self._folder.sizes()
        gone = [n for n, shard in shards if shard.file not in there]
        if gone:
            raise FeatureError(
                f"{self.path}: {self._files(gone)} is not there any more. {self._way_out(gone[0])}"
            )
        bad = [n for n, shard in shards if self._folder.checksum(shard.file) != shard.checksum]
        if bad:
            raise FeatureError(
                f"{self.path}: the checksum of {self._files(bad)} is not that of what was written. "
                f"{self._way_out(bad[0])}"
            )
        bad = [n for n, shard in shards if self._held(shard) != self._told(shard)]
        if bad:
            raise FeatureError(
                f"{self.path}: {self._files(bad)} does not hold the rows and columns that "
                f"{_manifest.NAME} tells, so this was damaged: compute it anew, resume=False."
            )
        return self.bytes

    def _files(self, numbers: list[int]) -> str:
        return ", ".join(repr(self.manifest.shards[n].file) for n in numbers)

    def _held(self, shard: ShardEntry) -> dict[str, Any]:
        """Return dtype and shape of each column, as a shard itself says."""
        found = header(
            shard.bytes, lambda start, length: self._folder.piece(shard.file, start, length)
        )
        return {name: (dtype, shape) for name, (dtype, shape, _) in found.items()}

    def _told(self, shard: ShardEntry) -> dict[str, Any]:
        columns = self.manifest.columns.items()
        return {name: (column.dtype, (shard.rows, *column.shape)) for name, column in columns}

    def _way_out(self, number: int) -> str:
        if not number:
            return "Nothing before it is left: compute it anew, with resume=False."
        return (
            f"Keep the {number} shards before it, and compute the rest again: "
            f"kg.features.keep({self.path!r}, {number}), then kg.features.compute with the same "
            "data."
        )

    def tables(self) -> list[Table]:
        """Return what the store holds, as a table."""
        m = self.manifest
        state = "complete" if m.complete else "not complete: compute(..., resume=True) goes on"
        title = (
            f"{self.path}: {len(self):,} samples in {len(m.shards)} shards, {self.bytes:,} bytes, "
            f"{state}",
            f"trunk {m.trunk.get('structure')}, weights {m.trunk.get('weights')}; "
            + ", ".join(f"{k} {v}" for k, v in m.versions.items()),
        )
        rows = [(name.rstrip("/"), c, c.bytes) for name, c in m.columns.items()]
        found: list[Table] = [(title, ("column", "rows", "bytes/sample"), rows)]
        if m.skipped:
            head = ("sample of the data", "left out, since")
            found.append(("", head, [(s.index, s.reason) for s in m.skipped]))
        return found

    def __repr__(self) -> str:
        return f"<FeatureStore {self.path!r}: {len(self)} samples>"


def keep(path: str | os.PathLike[str], shards: int) -> None:
    """Keep the first shards of a store and forget the others, so that they are computed again.

    Args:
        path: The folder, or its URL.
        shards: How many to keep.
    """
    if not isinstance(shards, Integral) or shards < 0:
        raise FeatureError(f"keep: {shards!r} shards: give how many to keep, 0 or more.")
    folder = folder_at(path)
    if _manifest.load(folder) is None:
        raise FeatureError(f"{path} is no store of features: it has no {_manifest.NAME}.")
    lock = folder.lock()
    if lock is None:
        raise FeatureError(f"Another process is writing to {folder}: wait for it, or stop it.")
    with lock:
        found = _manifest.load(folder)  # the writer that has just ended may have gone on
        assert found is not None
        new = found.replace(shards=found.shards[:shards], complete=False)
        new.save(folder)
        folder.sweep({shard.file for shard in new.shards})
