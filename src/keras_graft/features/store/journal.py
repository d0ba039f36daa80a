"""Adds shards to a store, each in the same short time however many there are."""

from __future__ import annotations

from keras_graft.errors import FeatureError
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import line, lines
from keras_graft.features.store.manifest import HEAD, NAME, Manifest
from keras_graft.features.store.segments import encode, merged, name_of


class Journal:
    """Adds shards to a store.

    Writes the manifest as a whole when it begins and when the store is complete. Between these
    each shard is a segment (`segments.py`).

    Args:
        folder: The folder of the store, locked.
        manifest: The manifest to begin with.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._total, self._begin = manifest.save(folder), len(manifest.shards)
        self._head = folder.piece(NAME, 0, HEAD)
        self._parts: list[tuple[int, int]] = []

    @property
    def manifest(self) -> Manifest:
        """The manifest with all shards."""
        return self._manifest

    def add(self, entry: ShardEntry) -> None:
        """Add a shard, whose file is written.

        Raises:
            FeatureError: If another process writes to the store.
        """
        if self._folder.piece(NAME, 0, HEAD) != self._head:
            raise FeatureError(f"Another process is writing to {self._folder}: wait for it.")
        first = len(self._manifest.shards)
        grown = self._manifest.added(entry)
        self._folder.create(name_of(self._total, first, first + 1), encode([line(entry)]))
        self._manifest = grown
        self._parts.append((first, first + 1))
        self._merge(first + 1)

    def fold(self) -> None:
        """Write the manifest with all shards, and delete the segments; nothing is added after it."""
        self._manifest.save(self._folder)

    def finish(self) -> None:
        """Do the same, and mark the store as complete."""
        self._manifest = self._manifest.replace(complete=True)
        self.fold()

    def _merge(self, end: int) -> None:
        """Write one segment in the place of many, then delete those."""
        size = merged(end - self._begin)
        parts = [part for part in self._parts if part[0] >= end - size]
        if len(parts) > 1:
            own = self._manifest.shards[end - size : end]
            self._folder.write(name_of(self._total, end - size, end), encode(lines(own)))
            del self._parts[-len(parts) :]
            self._parts.append((end - size, end))
            for part in parts:
                self._folder.delete(name_of(self._total, *part))
