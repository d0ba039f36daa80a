"""The entries of shards in a manifest, in arrays: a store may have a hundred thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from keras_graft.features.store.shards import shard_name, stem


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out of the store.

    Attributes:
        index: Its number in the data, or where the data was shuffled, in the order of the store.
        reason: Why it failed.
        inputs: The digest of its inputs, in hexadecimal digits; empty in stores without digests.
    """

    index: int
    reason: str
    inputs: str = ""


@dataclass(frozen=True)
class ShardEntry:
    """One shard.

    Attributes:
        file: The name of the file.
        rows: How many samples it holds.
        bytes: The size of the file.
        checksum: The checksum of the file.
        inputs: For each input of the trunk, the checksum of the data.
        labels: The checksums of all other columns: targets, sample weights, keys.
        skipped: The samples that were left out.
    """

    file: str
    rows: int
    bytes: int
    checksum: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def samples(self) -> int:
        """How many samples it was made from, with those that were left out."""
        return self.rows + len(self.skipped)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> ShardEntry:
        """Return the entry that JSON describes."""
        skipped = tuple(Skipped(**s) for s in raw["skipped"])
        inputs, labels = tuple(raw["inputs"]), tuple(raw["labels"])
        return cls(**{**raw, "inputs": inputs, "labels": labels, "skipped": skipped})


class _Table:
    """Rows of an array that grows, and the samples that were left out, by the number of the row."""

    def __init__(self, rows: np.ndarray, skipped: dict[int, tuple[Skipped, ...]]) -> None:
        self.rows, self.skipped, self.count = rows, skipped, len(rows)

    def add(self, rows: np.ndarray, skipped: Mapping[int, tuple[Skipped, ...]]) -> None:
        end = self.count + len(rows)
        if end > len(self.rows):
            grown = np.empty(max(end, len(self.rows) * 3 // 2, 16), self.rows.dtype)
            grown[: self.count] = self.rows[: self.count]
            self.rows = grown
        self.rows[self.count : end] = rows
        self.skipped.update((self.count + i, own) for i, own in skipped.items())
        self.count = end


class Shards(Sequence[ShardEntry]):
    """The entries of all shards. They are never changed: to add one gives another sequence.

    Both share their memory, so to add one takes the same short time however many there are.

    Args:
        entries: The entries.

    Raises:
        ValueError: If they have not as many inputs and labels as the first.
    """

    def __init__(self, entries: Iterable[ShardEntry] = ()) -> None:
        self._table, self._count = _Table(np.empty(0, dtype(0, 0)), {}), 0
        found = list(entries)
        if found:
            rows = _rows(found, 0)
            self._table = _Table(rows, {i: e.skipped for i, e in enumerate(found) if e.skipped})
            self._count = len(found)

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> Shards:
        """Return them as they are, or the entries of another sequence."""
        return entries if isinstance(entries, Shards) else cls(entries)

    def added(self, *entries: ShardEntry) -> Shards:
        """Return these shards and some more."""
        found = _rows(entries, self._count, self._table.rows.dtype if self._count else None)
        return self.extended(found, {i: e.skipped for i, e in enumerate(entries) if e.skipped})

    def extended(self, rows: np.ndarray, skipped: Mapping[int, tuple[Skipped, ...]]) -> Shards:
        """Return these shards and some more.

        Args:
            rows: Their numbers, as `dtype` says.
            skipped: The samples that were left out, by the number of the row.
        """
        if self._count and rows.dtype != self._table.rows.dtype:
            raise ValueError(f"shards[{self._count}] {_UNLIKE}")
        table = self._table
        if not self._count:
            table = _Table(np.empty(0, rows.dtype), {})
        elif table.count != self._count:  # another sequence has grown from this one
            own = {i: s for i, s in table.skipped.items() if i < self._count}
            table = _Table(table.rows[: self._count].copy(), own)
        table.add(rows, skipped)
        return self._view(table, table.count)

    def _view(self, table: _Table, count: int) -> Shards:
        found = Shards()
        found._table, found._count = table, count
        return found

    @property
    def array(self) -> np.ndarray:
        """The numbers of all shards: `"rows"`, `"left"` (left out), `"bytes"`, sums as integers."""
        return self._table.rows[: self._count]

    @property
    def rows(self) -> int:
        """How many samples they hold."""
        return int(self.array["rows"].sum())

    @property
    def samples(self) -> int:
        """How many samples they were made from."""
        return self.rows + int(self.array["left"].sum())

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return int(self.array["bytes"].sum())

    @property
    def skipped(self) -> dict[int, tuple[Skipped, ...]]:
        """The samples that were left out, by the number of the shard."""
        return {i: own for i, own in self._table.skipped.items() if i < self._count}

    @property
    def next_number(self) -> int:
        """A number that is in the name of no shard."""
        own = self.array
        known = own["low"][own["digits"] <= 10]
        return max(self._count, int(known.max(initial=0)) + 1 if len(known) else 0)

    def files(self) -> Iterator[str]:
        """Yield the names of all files."""
        own = self.array
        for start in range(0, len(own), 4096):
            part = own[start : start + 4096]
            yield from map(_name, *(part[name].tolist() for name in ("digits", "high", "low")))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, at: slice) -> Shards: ...
    def __getitem__(self, at: int | slice) -> ShardEntry | Shards:
        if isinstance(at, slice):
            start, stop, step = at.indices(self._count)
            if (start, step) == (0, 1):
                return self._view(self._table, stop)
            return Shards([self[i] for i in range(start, stop, step)])
        number = range(self._count)[at]
        digits, high, low, rows, _, size, total, inputs, labels = self._table.rows[number].item()
        return ShardEntry(
            _name(digits, high, low), rows, size, f"{total:016x}",
            tuple(f"{own:016x}" for own in inputs.tolist()),
            tuple(f"{own:016x}" for own in labels.tolist()),
            self._table.skipped.get(number, ()),
        )  # fmt: skip

    def __iter__(self) -> Iterator[ShardEntry]:
        return map(self.__getitem__, range(self._count))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, tuple | list):
            return list(self) == list(other)
        if not isinstance(other, Shards):
            return NotImplemented
        ours, theirs = self.array, other.array
        if not self._count or not other._count:
            return self._count == other._count
        return (
            ours.dtype == theirs.dtype
            and np.array_equal(ours.view(np.uint8), theirs.view(np.uint8))
            and self.skipped == other.skipped
        )

    __hash__: Any = None

    def __repr__(self) -> str:
        return f"<{self._count:,} shards>"

    def __reduce__(self) -> Any:
        return _restored, (self.array.copy(), self.skipped)


_UNLIKE = "has another number of inputs or labels than the first"


def dtype(inputs: int, labels: int) -> np.dtype:
    """Return the dtype of a shard's numbers: its name in three of them, then its entry."""
    return np.dtype([
        ("digits", "u1"), ("high", "u8"), ("low", "u8"), ("rows", "i8"), ("left", "i8"), ("bytes", "i8"),
        ("checksum", "u8"), ("inputs", "u8", (inputs,)), ("labels", "u8", (labels,)),
    ])  # fmt: skip


def coded(name: str) -> tuple[int, int, int]:
    """Return the name of a shard's file as numbers: how many digits it has, and these."""
    own = stem(name)
    return (len(own), 0, int(own)) if len(own) <= 10 else (32, int(own[:16], 16), int(own[16:], 16))


def _name(digits: int, high: int, low: int) -> str:
    return shard_name(f"{low:0{digits}}" if digits <= 10 else f"{high:016x}{low:016x}")


def _rows(entries: Sequence[ShardEntry], start: int, kind: Any = None) -> np.ndarray:
    kind = kind or dtype(len(entries[0].inputs), len(entries[0].labels))
    inputs, labels = kind["inputs"].shape[0], kind["labels"].shape[0]
    found = np.empty(len(entries), kind)
    for i, e in enumerate(entries):
        if (len(e.inputs), len(e.labels)) != (inputs, labels):
            raise ValueError(f"shards[{start + i}] {_UNLIKE}")
        sums = [int(own, 16) for own in e.inputs], [int(own, 16) for own in e.labels]
        found[i] = (*coded(e.file), e.rows, len(e.skipped), e.bytes, int(e.checksum, 16), *sums)
    return found


def _restored(rows: np.ndarray, skipped: dict[int, tuple[Skipped, ...]]) -> Shards:
    return Shards().extended(rows, skipped) if len(rows) else Shards()
