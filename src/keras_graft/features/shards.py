"""Shards: safetensors files, written whole, read row by row from memory maps."""

from __future__ import annotations

import json
import mmap
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.folder import Folder

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip
DTYPES = frozenset(_DTYPES.values()) | {"bfloat16"}
_BUDGET = 128 << 20
_AROUND = 64 << 10  # Linux maps this much around each touched page


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


class Shard:
    """One shard, memory-mapped: columns of rows.

    safetensors' own reader copies whole tensors; rows are taken here from the map. The format:
    8 bytes of length, a JSON header of that length, the data.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._map = folder.map(name)
        length = int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8 : 8 + length])
        header.pop("__metadata__", None)
        self.columns: dict[str, np.ndarray] = {}
        for key, entry in header.items():
            start, stop = entry["data_offsets"]
            dtype = bfloat16() if entry["dtype"] == "BF16" else np.dtype(_DTYPES[entry["dtype"]])
            count = (stop - start) // dtype.itemsize
            flat = np.frombuffer(self._map, dtype, count, 8 + length + start)
            self.columns[key] = flat.reshape(entry["shape"])

    def let_go(self) -> None:
        """Give the memory of the map back; what is needed again comes from the page cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Rows:
    """Rows of many shards, by their number, in any order, in bounded memory.

    Args:
        folder: Where the shards are.
        shards: The name and the number of rows of each.
    """

    def __init__(self, folder: Folder, shards: list[tuple[str, int]]) -> None:
        self._folder = folder
        self._names = [name for name, _ in shards]
        self._starts = np.cumsum([0, *(rows for _, rows in shards)])
        self._open: dict[int, Shard] = {}
        self._touched = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _shard(self, number: int) -> Shard:
        with self._lock:
            if number not in self._open:
                self._open[number] = Shard(self._folder, self._names[number])
            return self._open[number]

    def take(self, indices: np.ndarray, columns: list[str]) -> dict[str, np.ndarray]:
        """Return the rows of these numbers, in this order, of each column."""
        # In the order of the files: neighbours share pages.
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        homes = np.searchsorted(self._starts, ordered, side="right") - 1
        edges = np.flatnonzero(np.diff(homes)) + 1
        result: dict[str, np.ndarray] = {}
        start = 0
        for stop in [*edges.tolist(), len(ordered)]:
            if start == stop:
                continue
            number = int(homes[start])
            shard = self._shard(number)
            local = ordered[start:stop] - self._starts[number]
            for name in columns:
                source = shard.columns[name]
                if name not in result:
                    result[name] = np.empty((len(indices), *source.shape[1:]), source.dtype)
                result[name][order[start:stop]] = source[local]
                row = source.itemsize * int(np.prod(source.shape[1:]))
                self._count(len(local) * max(row, _AROUND))
            start = stop
        return result

    def span(self, start: int, stop: int, columns: list[str]) -> dict[str, np.ndarray]:
        """Return the rows from `start` to `stop`."""
        return self.take(np.arange(start, stop), columns)

    def _count(self, touched: int) -> None:
        """Keep what counts as resident below a budget."""
        with self._lock:
            self._touched += touched
            if self._touched < _BUDGET:
                return
            self._touched = 0
            shards = list(self._open.values())
        for shard in shards:
            shard.let_go()
