"""The journal of a store: small files, each with the entries of some shards, beside its manifest.

A segment is named by the checksum of the manifest that it adds to, the number of its first shard,
and the number after its last. It is written whole, and never changed. So it works in a folder and
in an object store, where nothing can be appended, and several writers each write their own
(`journal.py`); one of them merges what comes without a gap.
A line is a checksum of the rest, a space, and the entry as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import extended
from keras_graft.features.store.schema import LONGEST
from keras_graft.printable import words_of

SEGMENT = re.compile(r"journal-([0-9a-f]{16})-([0-9]{8,12})-([0-9]{8,12})\.jsonl")
"""The names of segments."""
MERGED = (64, 4096)
"""Segments of one shard are merged to some of 64, and these to some of 4,096: so a line is written
three times, and a hundred thousand shards have at most 150 segments."""


def merged(count: int) -> int:
    """Return the size of the segment to write when so many shards were added; 1 for none."""
    return max((size for size in MERGED if count % size == 0), default=1)


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


def only(data: bytes) -> ShardEntry | None:
    """Return the entry in a segment of one shard; None if it is damaged."""
    try:
        return decode(data, 1, Shards())[0]
    except ValueError:
        return None


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
    begin = len(shards)
    while True:
        at = len(shards)
        first, end = at, longest.get(at, 0)
        if end <= at:
            first, end = _missed(folder, total, begin, at)
        if end <= at:
            return shards
        name = name_of(total, first, end)
        data = folder.read(name, LONGEST) if first == at else None
        if data is None:
            return None
        try:
            shards = decode(data, end - at, shards)
        except ValueError as error:
            raise FeatureError(
                f"{folder}/{name} cannot be read ({words_of(error)}): it was not written by keras-graft, or "
                f"the disk is damaged. Delete it: the {at:,} shards before it are kept, and "
                "kg.features.compute with the same data computes the rest again."
            ) from error


def _missed(folder: Folder, total: str, begin: int, at: int) -> tuple[int, int]:
    """Return the first shard and the end of a segment that a shard is in, though none was listed.

    Who lists a folder while segments are merged may see neither these nor what takes their place.
    A segment is deleted only when a longer one is there, so to look for short ones first finds it.
    """
    for size in (1, *MERGED):
        first = begin + (at - begin) // size * size
        if folder.read(name_of(total, first, first + size), LONGEST) is not None:
            return first, first + size
    return at, at
