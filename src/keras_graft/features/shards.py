"""Shards: safetensors files, written whole, read row by row."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.folder import Folder
from keras_graft.features.manifest import Column, ShardEntry

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip
DTYPES = frozenset(_DTYPES.values()) | {"bfloat16"}
_LARGE, _BUFFERS = 1 << 18, 8
"""From so many bytes on memory is used again, and so many pieces of it are kept."""
_SMALL, _SMALL_ALL = 64, 16 << 20
"""Columns of rows of so few bytes, and so few in all, are kept in memory."""
_RESIDENT = 128 << 20
"""Bytes of maps that may be resident, before they are let go."""
_AROUND = 1 << 16
"""What Linux maps around a byte that is touched, if it is in the page cache."""


def bfloat16() -> Any:
    """Return NumPy's bfloat16, which comes with every backend of Keras."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def dtype_of(name: str) -> Any:
    """Return the NumPy dtype of a standard name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def encode(columns: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a shard.

    Raises:
        FeatureError: If safetensors is not there.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise FeatureError(
            "A store is written with safetensors, which is an extra: pip install "
            "'keras-graft[features]'"
        ) from error
    return save({name: np.ascontiguousarray(array) for name, array in columns.items()})


def header(read: Callable[[int, int], bytes]) -> dict[str, tuple[Any, tuple[int, ...], int]]:
    """Return dtype, shape and first byte of each column of a shard.

    Args:
        read: Returns the bytes from a place on, so many.
    """
    length = int.from_bytes(read(0, 8), "little")
    found = {}
    for key, tensor in json.loads(read(8, length)).items():
        if key != "__metadata__":
            dtype = bfloat16() if tensor["dtype"] == "BF16" else np.dtype(_DTYPES[tensor["dtype"]])
            found[key] = dtype, tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][0]
    return found


class Shard:
    """One shard, mapped into memory: columns of rows of bytes.

    safetensors' own reader copies whole tensors; here single rows are taken. The format: 8 bytes
    of length, a JSON header of that length, the data.
    """

    def __init__(self, folder: Folder, entry: ShardEntry) -> None:
        path = folder.local(entry.file, entry.crc32)
        data = np.frombuffer(np.memmap(path, np.uint8, "r"), np.uint8)
        kinds = header(lambda start, length: data[start : start + length].tobytes())
        self.columns: dict[str, np.ndarray] = {}
        for name, (dtype, shape, start) in kinds.items():
            size = dtype.itemsize * math.prod(shape)
            self.columns[name] = data[start : start + size].reshape(shape[0], -1)


class Buffers:
    """Memory for batches, used again once nobody refers to what was in it.

    New pages for each batch may cost more than the batch, above all in virtual machines.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._lock = threading.Lock()

    def get(self, size: int) -> np.ndarray:
        """Return so many bytes, of any content.

        Every view of an array refers to it, those of JAX, TensorFlow and PyTorch too: once there
        are only ours, it is free.
        """
        if size < _LARGE:
            return np.empty(size, np.uint8)
        with self._lock:
            for i in range(len(self._kept)):
                if len(self._kept[i]) >= size and sys.getrefcount(self._kept[i]) == 2:
                    self._kept.append(self._kept.pop(i))
                    break
            else:
                self._kept = [*self._kept[1 - _BUFFERS :], np.empty(size, np.uint8)]
            return self._kept[-1][:size]


class Rows:
    """Rows of many shards, by their number, in any order, in bounded memory.

    Args:
        folder: Where the shards are.
        shards: What they hold, in order.
        columns: What rows each column has.
    """

    def __init__(
        self, folder: Folder, shards: Sequence[ShardEntry], columns: Mapping[str, Column]
    ) -> None:
        self._folder, self._shards, self._columns = folder, shards, columns
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self._open: dict[int, Shard] = {}
        self._touched = self._mapped = 0
        self._buffers = Buffers()
        self._whole: dict[str, tuple[np.ndarray, set[int]]] = {}
        self._lock = threading.Lock()

    def _shard(self, number: int) -> Shard:
        with self._lock:
            if number not in self._open:
                self._open[number] = Shard(self._folder, self._shards[number])
                self._touched += _AROUND
                self._mapped += self._shards[number].bytes
            return self._open[number]

    def _touch(self, count: int) -> None:
        """Let the maps go when much of them may be resident; they are made again when needed."""
        with self._lock:
            self._touched += count
            if min(self._touched, self._mapped) > _RESIDENT:
                self._touched = self._mapped = 0
                self._open.clear()

    def take(self, indices: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """Return the rows of these numbers, in this order, of each column."""
        homes = np.searchsorted(self._starts, indices, side="right") - 1
        # Open as long as they are needed here, whatever else lets go of them.
        shards = {number: self._shard(number) for number in set(homes.tolist())}
        found = {}
        for name in names:
            column = self._columns[name]
            if column.bytes <= _SMALL and self._starts[-1] * column.bytes <= _SMALL_ALL:
                rows = self._small(name, column.bytes, shards)[indices]
            else:
                rows = self._large(name, column.bytes, shards, homes, indices)
            found[name] = rows.reshape(-1).view(dtype_of(column.dtype)).reshape(
                len(indices), *column.shape
            )  # fmt: skip
        return found

    def _small(self, name: str, width: int, shards: Mapping[int, Shard]) -> np.ndarray:
        """Return a column in memory, with the rows of these shards in it."""
        with self._lock:
            if name not in self._whole:
                self._whole[name] = np.empty((self._starts[-1], width), np.uint8), set()
            whole, there = self._whole[name]
            for number in shards.keys() - there:
                start, stop = self._starts[number : number + 2]
                whole[start:stop] = shards[number].columns[name]
                there.add(number)
            return whole

    def _large(
        self, name: str, width: int, shards: Mapping[int, Shard], homes: Any, indices: Any
    ) -> np.ndarray:
        """Return rows of a column, from the maps."""
        columns = {number: shard.columns[name] for number, shard in shards.items()}
        local = indices - self._starts[homes]
        edges = [0, *(np.flatnonzero(np.diff(homes)) + 1).tolist(), len(indices)]
        first = edges[:-1]
        runs = zip(first, edges[1:], homes[first].tolist(), local[first].tolist(), strict=True)
        into = self._buffers.get(len(indices) * width).reshape(len(indices), width)
        for start, stop, number, row in runs:
            if stop == start + 1:  # shuffled, of many shards: a call for each would be slower
                into[start] = columns[number][row]
            else:  # "clip" spares a copy: the numbers are known to be there
                np.take(columns[number], local[start:stop], 0, into[start:stop], "clip")
        self._touch(len(indices) * (width + _AROUND))
        return into
