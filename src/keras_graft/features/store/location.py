"""Look at the folder of a store: which files keras-graft wrote, and so may replace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keras_graft.errors import FeatureError
from keras_graft.features.store.folder import TEMPORARY, Folder
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.loading import load, written_here
from keras_graft.features.store.manifest import LARGEST, NAME, Manifest
from keras_graft.features.store.segments import SEGMENT, delete
from keras_graft.features.store.shards import SHARD, header
from keras_graft.graph.names import listed


@dataclass(frozen=True)
class Location:
    """A folder in which a store is, or will be.

    Attributes:
        folder: The folder.
        found: The manifest of the store to resume; None to begin a store.
        ours: Files that keras-graft wrote and that do not belong to that store. They are deleted
            before the first shard is written.
    """

    folder: Folder
    found: Manifest | None
    ours: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        """Whether there is no store yet, and nothing to delete for this one."""
        return self.found is None and not self.ours

    def begin(self, manifest: Manifest, mark: str = "") -> Journal:
        """Prepare the folder for shards, and return what adds them.

        Args:
            manifest: The manifest to begin with.
            mark: What marks this run, if other processes add to the journal.

        The manifest is written before the first shard. So a shard in a folder without a manifest
        was not written by keras-graft.
        """
        journal = Journal(self.folder, manifest, mark)
        for name in self.ours:
            if SEGMENT.fullmatch(name) is None:  # those are deleted, and may be written again
                self.folder.delete(name)
        return journal

    def sweep(self) -> None:
        """Delete what a killed writer left of the journal of a complete store."""
        if self.found is not None and self.found.complete:
            delete(self.folder, filter(SEGMENT.fullmatch, self.ours))


def location(folder: Folder, resume: bool) -> Location:
    """Look at a folder without changing it.

    Args:
        folder: The folder.
        resume: Resume the store that is there; if False, replace it.

    Raises:
        FeatureError: If the manifest cannot be read and `resume` is set; or if the store would
            replace files that keras-graft did not write.
    """
    data = folder.read(NAME, LARGEST)
    there = None
    try:
        there = load(folder)
    except FeatureError:
        if resume:
            raise
        if not written_here(data or b""):
            raise _strange(folder, [NAME]) from None
    sizes = folder.sizes()
    named = set(there.shards.files()) if there is not None else set()
    ours, strange = _apart(folder, sizes, named, data is not None)
    if strange and not (resume and there is not None and there.complete):
        raise _strange(folder, strange)
    if resume:
        return Location(folder, there, tuple(ours))
    return Location(folder, None, (*ours, *(name for name in sizes if name in named)))


def leftovers(folder: Folder, manifest: Manifest) -> list[str]:
    """Return the files that killed writers left in the folder of a store."""
    named = set(manifest.shards.files())
    return _apart(folder, folder.sizes(), named, True)[0]


def _apart(
    folder: Folder, sizes: Mapping[str, int], named: set[str], store: bool
) -> tuple[list[str], list[str]]:
    """Return the files that writers left, and those that only look like shards by name."""
    ours, strange = [], []
    for name, size in sizes.items():
        if name.endswith(TEMPORARY):
            ours.append(name)
        elif SEGMENT.fullmatch(name):
            (ours if store else strange).append(name)
        elif name not in named and re.fullmatch(SHARD, name):
            (ours if store and _is_shard(folder, name, size) else strange).append(name)
    return ours, strange


def _is_shard(folder: Folder, name: str, size: int) -> bool:
    """Whether a file is a shard: these are always whole."""
    try:
        return bool(header(size, lambda start, length: folder.piece(name, start, length)))
    except ValueError:
        return False


def _strange(folder: Folder, names: list[str]) -> FeatureError:
    return FeatureError(
        f"{folder} holds {listed(names)}, which no store wrote, and a store may replace files "
        "with these names. Give another folder, or move them away."
    )
