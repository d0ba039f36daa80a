"""Adds shards to a store, each in the same short time however many there are."""

from __future__ import annotations

from dataclasses import dataclass

from keras_graft.errors import FeatureError
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import line, lines
from keras_graft.features.store.manifest import HEAD, NAME, Manifest
from keras_graft.features.store.schema import LONGEST
from keras_graft.features.store.segments import encode, merged, name_of, only


@dataclass(frozen=True)
class Numbered:
    """Adds single shards to a journal, in any order: for processes that write them for its owner.

    Several may add to one journal at once, each shards of its own numbers.

    Attributes:
        total: The checksum of the manifest.
        head: The first bytes of the manifest.
        begin: The number of shards in the manifest.
    """

    total: str
    head: bytes
    begin: int

    def check(self, folder: Folder) -> None:
        """Refuse to write if the manifest is another one: another run has begun.

        Raises:
            FeatureError: If another process writes to the store.
        """
        if folder.piece(NAME, 0, HEAD) != self.head:
            raise FeatureError(f"Another process is writing to {folder}: wait for it.")

    def find(self, folder: Folder, number: int) -> ShardEntry | None:
        """Return the entry of a shard if it was added already.

        Args:
            folder: The folder.
            number: Its number, counted from the end of the manifest.
        """
        data = folder.read(self._name(number), LONGEST)
        return None if data is None else only(data)

    def add(self, folder: Folder, number: int, entry: ShardEntry) -> None:
        """Add a shard, whose file is written."""
        folder.create(self._name(number), encode([line(entry)]))

    def _name(self, number: int) -> str:
        at = self.begin + number
        return name_of(self.total, at, at + 1)


class Journal:
    """Adds shards to a store.

    Writes the manifest as a whole when it begins and when the store is complete. Between these
    each shard is a segment (`segments.py`), written here or by others (`numbered`).

    Args:
        folder: The folder of the store, locked.
        manifest: The manifest to begin with.
        mark: What marks this run, if others add to its journal: any text that no other run has.
    """

    def __init__(self, folder: Folder, manifest: Manifest, mark: str = "") -> None:
        self._folder, self._manifest = folder, manifest.marked(mark)
        total, begin = self._manifest.save(folder), len(manifest.shards)
        self.numbered = Numbered(total, folder.piece(NAME, 0, HEAD), begin)
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
        self.numbered.check(self._folder)
        grown = self._manifest.added(entry)  # refuses an entry that does not fit
        self.numbered.add(self._folder, len(self._manifest.shards) - self.numbered.begin, entry)
        self._took(grown)

    def take(self, entry: ShardEntry) -> None:
        """Take in the next shard, which another process has added to the journal.

        Raises:
            FeatureError: If another process writes to the store; noticed when segments are merged.
        """
        grown = self._manifest.added(entry)
        if merged(len(grown.shards) - self.numbered.begin) > 1:
            self.numbered.check(self._folder)
        self._took(grown)

    def fold(self) -> None:
        """Write the manifest with all shards, and delete the segments; nothing is added after it."""
        self._manifest.save(self._folder)

    def finish(self) -> None:
        """Do the same, and mark the store as complete."""
        self._manifest = self._manifest.finished()
        self.fold()

    def _took(self, grown: Manifest) -> None:
        first, end = len(self._manifest.shards), len(grown.shards)
        self._manifest = grown
        self._parts.append((first, end))
        self._merge(end)

    def _merge(self, end: int) -> None:
        """Write one segment in the place of many, then delete those."""
        size = merged(end - self.numbered.begin)
        parts = [part for part in self._parts if part[0] >= end - size]
        if len(parts) > 1:
            own, total = self._manifest.shards[end - size : end], self.numbered.total
            self._folder.write(name_of(total, end - size, end), encode(lines(own)))
            del self._parts[-len(parts) :]
            self._parts.append((end - size, end))
            for part in parts:
                self._folder.delete(name_of(total, *part))
