"""The journal of a store: small files, each with the entries of some shards, beside its manifest.

A segment is named by the checksum of the manifest that it adds to, the number of its first shard,
and the number after its last. It is written whole, and never changed. So it works in a folder and
in an object store, where nothing can be appended, and several writers may each write their own.
A line is a checksum of the rest, a space, and the entry as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.entries import Shards
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import extended
from keras_graft.features.store.schema import LONGEST
from keras_graft.printable import words_of

SEGMENT = re.compile(r"journal-([0-9a-f]{16})-([0-9]{8,12})-([0-9]{8,12})\.jsonl")
"""The names of segments."""


def name_of(total: str, first: int, end: int) -> str:
    """Return the name of a segment.

    Args:
        total: The checksum of the manifest.
        first: The number of its first shard.
        end: The number after its last.
    """
    return f"journal-{total}-{first:08}-{end:08}.jsonl"


def encode(shards: Iterable[str]) -> bytes:
    """Return the bytes of a segment, from the lines of its shards.

    >>> encode(['{}'])
    b'1349cde127705c16 {}\\n'
    """
    return "".join(f"{checksum([own.encode()])} {own}\n" for own in shards).encode()


def decode(data: bytes, count: int, shards: Shards) -> Shards:
    """Return shards, and those of a segment after them.

    Raises:
        ValueError: If it was not written by keras-graft, or is damaged.
    """
    *rows, last = data.decode("ascii").split("\n")
    if last or len(rows) != count:
        raise ValueError(f"it has {len(rows)} whole lines, and {count} were written")
    own = [row[17:] for row in rows]
    for i, row in enumerate(rows):
        if row[:17] != f"{checksum([own[i].encode()])} ":
            raise ValueError(f"the checksum of line {i + 1} does not match what was written")
    found = extended(shards, own)
    if found is None:
        raise ValueError("its lines are not entries of shards")
    return found


def segments(folder: Folder) -> list[str]:
    """Return the names of all segments, in order."""
    return sorted(name for name in folder.sizes() if SEGMENT.fullmatch(name))


def delete(folder: Folder, names: Iterable[str]) -> None:
    """Delete segments, the last first: what is left at any time is the begin of the journal."""
    for name in sorted(names, reverse=True):
        folder.delete(name)


def read(folder: Folder, total: str, shards: Shards) -> Shards | None:
    """Return the shards of a manifest, and those of its journal after them.

    Only shards without a gap before them count: where several write, one may be late.

    Args:
        folder: The folder.
        total: The checksum of the manifest.
        shards: The shards in the manifest.

    Returns:
        None if a segment was deleted meanwhile: it was merged, look again.

    Raises:
        FeatureError: If a segment is damaged.
    """
    longest: dict[int, int] = {}
    for name in segments(folder):
        of, first, end = SEGMENT.fullmatch(name).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if of == total:
            longest[int(first)] = max(int(end), longest.get(int(first), 0))
    while (end := longest.get(len(shards), 0)) > len(shards):
        name = name_of(total, len(shards), end)
        data = folder.read(name, LONGEST)
        if data is None:
            return None
        try:
            shards = decode(data, end - len(shards), shards)
        except ValueError as error:
            raise FeatureError(
                f"{folder}/{name} cannot be read ({words_of(error)}): it was not written by keras-graft, or "
                f"the disk is damaged. Delete it: the {len(shards):,} shards before it are kept, and "
                "kg.features.compute with the same data computes the rest again."
            ) from error
    return shards
