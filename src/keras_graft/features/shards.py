"""Shards: safetensors files, written whole, read row by row."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.folder import Folder
from keras_graft.features.manifest import ShardEntry

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip
DTYPES = frozenset(_DTYPES.values()) | {"bfloat16"}
_OPEN = 200
"""Files that are open at once: systems allow a thousand or so."""
_SMALL = 64
"""Columns of rows of so few bytes are kept in memory, as long as their shard is open."""


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
    """One shard, open: columns of rows.

    safetensors' own reader copies whole tensors; here single rows are read. The format: 8 bytes
    of length, a JSON header of that length, the data.
    """

    def __init__(self, folder: Folder, entry: ShardEntry) -> None:
        self._parts = folder.open(entry.file, entry.crc32)
        self._rows = entry.rows
        self.columns: dict[str, tuple[Any, tuple[int, ...], int]] = {
            key: (dtype, shape[1:], start)
            for key, (dtype, shape, start) in header(self._bytes).items()
        }
        self._whole: dict[str, np.ndarray] = {}

    def _bytes(self, start: int, length: int) -> bytes:
        data = bytearray(length)
        self._parts.read_into(start, memoryview(data))
        return bytes(data)

    def read(self, name: str, rows: np.ndarray, places: np.ndarray, into: np.ndarray) -> None:
        """Read rows into an array of bytes, one row a line.

        Args:
            name: The column.
            rows: The numbers of the rows, which ascend.
            places: The line of `into` for each.
            into: The array.
        """
        width = into.shape[1]
        if width <= _SMALL:  # targets: a read for each would cost as much as the features
            into[places] = self._column(name, width)[rows]
            return
        start = self.columns[name][2]
        lines = into.reshape(-1).data
        first = place = number = 0
        for row, at in zip(rows.tolist(), places.tolist(), strict=True):
            if number and row == first + number and at == place + number:
                number += 1  # neighbours are read at once
                continue
            if number:
                self._parts.read_into(
                    start + first * width, lines[place * width : (place + number) * width]
                )
            first, place, number = row, at, 1
        self._parts.read_into(
            start + first * width, lines[place * width : (place + number) * width]
        )

    def _column(self, name: str, width: int) -> np.ndarray:
        if name not in self._whole:
            data = self._bytes(self.columns[name][2], self._rows * width)
            self._whole[name] = np.frombuffer(data, np.uint8).reshape(self._rows, width)
        return self._whole[name]


class Rows:
    """Rows of many shards, by their number, in any order, in bounded memory.

    Args:
        folder: Where the shards are.
        shards: What they hold, in order.
    """

    def __init__(self, folder: Folder, shards: Sequence[ShardEntry]) -> None:
        self._folder, self._shards = folder, shards
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self._open: dict[int, Shard] = {}
        self._lock = threading.Lock()

    def _shard(self, number: int) -> Shard:
        with self._lock:
            shard = self._open.pop(number, None) or Shard(self._folder, self._shards[number])
            self._open[number] = shard
            if len(self._open) > _OPEN:  # the one that was not used for longest
                self._open.pop(next(iter(self._open)))
            return shard

    def take(self, indices: np.ndarray, columns: list[str]) -> dict[str, np.ndarray]:
        """Return the rows of these numbers, in this order, of each column."""
        order = np.argsort(indices, kind="stable")  # in the order of the files
        ordered = indices[order]
        homes = np.searchsorted(self._starts, ordered, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(homes)) + 1).tolist(), len(ordered)]
        found: dict[str, np.ndarray] = {}
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for start, stop in zip(edges, edges[1:], strict=False):
            shard = self._shard(int(homes[start]))
            local = ordered[start:stop] - self._starts[homes[start]]
            for name in columns:
                dtype, shape, _ = shard.columns[name]
                if name not in found:
                    width = dtype.itemsize * int(np.prod(shape))
                    found[name] = np.empty((len(indices), width), np.uint8)
                    kinds[name] = dtype, shape
                shard.read(name, local, order[start:stop], found[name])
        result = {}
        for name, rows in found.items():
            dtype, shape = kinds[name]
            result[name] = rows.reshape(-1).view(dtype).reshape(len(indices), *shape)
        return result
