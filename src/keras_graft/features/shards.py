"""Shards: safetensors files, written whole, read row by row."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

from keras_graft.errors import FeatureError
from keras_graft.features.folder import Folder
from keras_graft.features.loading import COLUMN, load
from keras_graft.features.manifest import DTYPES, Column, Manifest, ShardEntry, itemsize
from keras_graft.features.manifest import NAME as MANIFEST
from keras_graft.features.schema import LONGEST, many, one_of, parse, record, table, whole
from keras_graft.printable import shown, words_of

_HEADER = table(
    record(
        dtype=one_of(frozenset(DTYPES.values())), shape=many(whole(), 1, 32),
        data_offsets=many(whole(), 2, 2),
    ),
    COLUMN,
)  # fmt: skip
_SHORT, _SHORT_ALL, _KEPT = 64, 16 << 20, 64 << 20
"""Columns of rows of so few bytes, and so few in all, are kept in memory; and so short stores."""
_OPEN = 200 if resource is None else min(200, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5)
"""Files that are open at once, for one of several stores side by side."""


def bfloat16() -> Any:
    """Return NumPy's bfloat16, which comes with every backend of Keras."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def dtype_of(name: str) -> Any:
    """Return the NumPy dtype of a standard name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def encode(columns: Mapping[str, Sequence[np.ndarray]]) -> list[memoryview]:
    """Return the bytes of a shard, in pieces: of each column its rows, in one array or several.

    safetensors' own writer copies all of it three times, into new memory each time, which takes
    longer than to write it. The format: see `Shard`.
    """
    pieces: list[memoryview] = []
    header, place = {}, 0
    # Those of the longest numbers first: so all start where a reader that maps them needs it.
    ordered = sorted(columns.items(), key=lambda item: (-item[1][0].dtype.itemsize, item[0]))
    for name, parts in ordered:
        for part in parts:
            pieces.append(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        end = place + sum(part.nbytes for part in parts)
        header[name] = {
            "dtype": DTYPES[parts[0].dtype.name],
            "shape": [sum(map(len, parts)), *parts[0].shape[1:]],
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


def header(
    size: int, read: Callable[[int, int], bytes]
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return dtype, shape and first byte of each column of a shard.

    Args:
        size: How long the shard is.
        read: Returns the bytes from a place on, so many.

    Raises:
        ValueError: If it is no header of a shard, or does not fit the length of the file.
    """
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if not 0 < length <= min(size - 8, LONGEST):
        raise ValueError(f"its header would have {length:,} bytes, and the file has {size:,}")
    raw = parse(read(8, length))
    _HEADER(raw, "its header")
    dtypes = {value: name for name, value in DTYPES.items()}
    found, places = {}, []
    for name, t in raw.items():
        dtype, shape = dtypes[t["dtype"]], tuple(t["shape"])
        start, end = t["data_offsets"]
        if end - start != itemsize(dtype) * math.prod(shape):
            raise ValueError(
                f"{shown(name)} is {dtype} of shape {shown(str(shape))}, and data_offsets do not "
                f"span that: {t['data_offsets']}"
            )
        found[name] = dtype, shape, 8 + length + start
        places.append((start, end))
    edges = sorted(places)
    if [start for start, _ in edges] != [0, *(end for _, end in edges)][: len(edges)] or (
        8 + length + max((end for _, end in edges), default=0) != size
    ):  # fmt: skip
        raise ValueError(
            f"its columns do not lie one after the other, up to its end at byte {size:,}"
        )
    return found


def starts(
    size: int, read: Callable[[int, int], bytes], columns: Mapping[str, Column], rows: int
) -> dict[str, int]:
    """Return the first byte of each column of a shard.

    Args:
        size: How long the shard is.
        read: Returns the bytes from a place on, so many.
        columns: What the manifest says that it holds.
        rows: How many rows of it.

    Raises:
        ValueError: If it is no shard, or holds something else.
    """
    found = header(size, read)
    if found.keys() != columns.keys():
        raise ValueError(f"it holds {shown(', '.join(found))}, not {shown(', '.join(columns))}")
    for name, (dtype, shape, _) in found.items():
        told = columns[name].dtype, (rows, *columns[name].shape)
        if (dtype, shape) != told:
            raise ValueError(
                f"its {shown(name)} is {dtype} of shape {shape}, not {told[0]} of {told[1]}"
            )
    return {name: start for name, (_, _, start) in found.items()}


class Shard:
    """One shard, open: its columns, of which rows are read.

    safetensors' own reader copies whole tensors; here single rows are read. The format
    (https://github.com/huggingface/safetensors#format): 8 bytes of length, a JSON header of that
    length, the data.

    Args:
        folder: Where it is.
        entry: What the manifest says of it.
        columns: What the manifest says of its columns.
    """

    def __init__(self, folder: Folder, entry: ShardEntry, columns: Mapping[str, Column]) -> None:
        self.parts = folder.open(entry.file, entry.checksum)
        self.starts = starts(
            entry.bytes, lambda start, length: self.bytes(start, length).tobytes(), columns, entry.rows
        )  # fmt: skip

    def bytes(self, start: int, length: int) -> np.ndarray:
        """Return some bytes of the file."""
        data = np.empty(length, np.uint8)
        self.parts.read_into(start, data.data)
        return data


class Rows:
    """Rows of many shards, by their number, in any order, in bounded memory.

    Args:
        folder: Where the shards are.
        manifest: What they hold, in order.
        stamp: Of the file of the manifest, when it was read.
    """

    def __init__(self, folder: Folder, manifest: Manifest, stamp: Any) -> None:
        self._folder, self._stamp = folder, stamp
        self._shards, self._columns = manifest.shards, manifest.columns
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self._open: dict[int, Shard] = {}
        self._whole: dict[str, tuple[np.ndarray, set[int]]] = {}
        # To read a row takes as long as a step of a small head.
        whole = sum(shard.bytes for shard in manifest.shards) <= _KEPT
        self._kept = {
            name for name, column in self._columns.items()
            if whole or (column.bytes <= _SHORT and self._starts[-1] * column.bytes <= _SHORT_ALL)
        }  # fmt: skip
        self._lock = threading.Lock()

    def _shard(self, number: int) -> Shard:
        with self._lock:
            shard = self._open.pop(number, None) or self._opened(number)
            self._open[number] = shard
            if len(self._open) > _OPEN:  # the one that was not used for longest
                self._open.pop(next(iter(self._open)))
            return shard

    def _opened(self, number: int) -> Shard:
        """Open a shard, of the store as it was when this was made."""
        entry = self._shards[number]
        try:
            shard = Shard(self._folder, entry, self._columns)
        except (OSError, ValueError) as error:
            self._check_same()
            raise FeatureError(
                f"{self._folder}: shard {entry.file!r} cannot be read: {words_of(error)}. "
                f"kg.features.FeatureStore({str(self._folder)!r}).verify() says what to do."
            ) from error
        self._check_same()
        return shard

    def _check_same(self) -> None:
        """Refuse a store that was written anew; one that has only grown is the same."""
        stamp = self._folder.stamp(MANIFEST)
        if stamp != self._stamp:
            now = load(self._folder)
            if now is None or now.shards[: len(self._shards)] != self._shards:
                raise FeatureError(
                    f"{self._folder} was written anew since it was opened, so its rows would be "
                    "mixed with those of before: open it again."
                )
            self._stamp = stamp

    def take(self, indices: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """Return the rows of these numbers, in this order, of each column."""
        order = np.argsort(indices, kind="stable")  # in the order of the files
        ordered = indices[order]
        homes = np.searchsorted(self._starts, ordered, side="right") - 1
        found = {}
        for name in names:
            column = self._columns[name]
            if name in self._kept:
                rows = _aligned(len(indices) * column.bytes)
                whole = self._in_memory(name, column.bytes, set(homes.tolist()))
                # "clip" writes in place; all numbers are there.
                whole.take(indices, 0, rows.reshape(len(indices), column.bytes), "clip")
            else:
                local = ordered - self._starts[homes]
                rows = self._read(name, column.bytes, homes, local, order)
            found[name] = rows.reshape(-1).view(dtype_of(column.dtype)).reshape(
                len(indices), *column.shape
            )  # fmt: skip
        return found

    def _in_memory(self, name: str, width: int, needed: set[int]) -> np.ndarray:
        """Return a column in memory, with the rows of these shards in it."""
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
        """Return rows of a column.

        Args:
            name: The column.
            width: The bytes of a row.
            homes: The numbers of the shards, which ascend.
            local: The numbers of the rows in these.
            places: Which row of the result each becomes.
        """
        into = _aligned(len(homes) * width)
        lines = into.data
        # Neighbours in the file that stay neighbours are read at once.
        apart = (np.diff(homes) != 0) | (np.diff(local) != 1) | (np.diff(places) != 1)
        first = np.flatnonzero(np.concatenate([[True], apart]))
        counts = np.diff(first, append=len(homes))
        current, shard, start = -1, None, 0
        for number, row, place, count in zip(
            homes[first].tolist(), local[first].tolist(), (places[first] * width).tolist(),
            (counts * width).tolist(), strict=True,
        ):  # fmt: skip
            if number != current or shard is None:
                current, shard = number, self._shard(number)
                start = shard.starts[name]
            shard.parts.read_into(start + row * width, lines[place : place + count])
        return into


def _aligned(size: int) -> np.ndarray:
    """Return new memory that JAX and TensorFlow take as it is; they copy what starts elsewhere."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
