"""What runs beside the trunk: reading ahead, and writing shards behind."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.features.folder import Folder
from keras_graft.features.manifest import Manifest, ShardEntry
from keras_graft.features.shards import encode


class Checksums:
    """Checksums of arrays, one for each, however they are cut into batches."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}

    def add(self, x: Any) -> None:
        for i, leaf in enumerate(keras.tree.flatten(x)):
            data = np.ascontiguousarray(leaf)
            if data.dtype.hasobject:
                raise FeatureError("An input holds Python objects, which is no array of numbers.")
            flat: Any = data.reshape(-1).view(np.uint8)
            self._values[i] = zlib.crc32(flat, self._values.get(i, 0))

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(self._values.values())


def labels(columns: Mapping[str, Any]) -> list[Any]:
    """Return the columns that are no features, in an order of their own."""
    return [columns[name] for name in sorted(columns) if not name.startswith("features/")]


class Writer:
    """Writes shards in a thread of its own, while the next batches are computed."""

    def __init__(self, folder: Folder, manifest: Manifest, cast: Any) -> None:
        self._folder, self._manifest, self._cast = folder, manifest, cast
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._parts: list[dict[str, np.ndarray]] = []
        self._rows, self._inputs, self._labels = 0, Checksums(), Checksums()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, columns: dict[str, Any], x: Any, start: int) -> None:
        while self._error is None:
            try:
                return self._queue.put((columns, x, start), timeout=0.1)
            except queue.Full:
                continue
        raise self._error

    def finish(self) -> None:
        """Write what is left, and say that the data came to its end."""
        self.put({}, None, -1)
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread; what is not a whole shard yet is lost, as if killed."""
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                columns, x, start = item
                if start < 0:
                    self._flush()
                    self._manifest = self._manifest.replace(complete=True)
                    self._manifest.save(self._folder)
                else:
                    self._add(columns, x, start)
        except BaseException as error:  # it is raised where the next batch is put
            self._error = error

    def _add(self, columns: dict[str, Any], x: Any, start: int) -> None:
        part = {}
        for name, array in columns.items():
            array = self._cast(name, np.asarray(array), start)
            known = self._manifest.columns[name]
            if tuple(array.shape[1:]) != known.shape or array.dtype.name != known.dtype:
                raise FeatureError(
                    f"{name.removesuffix('/')} of the samples from {start} on is "
                    f"{tuple(array.shape[1:])} {array.dtype.name}, and was {known.shape} "
                    f"{known.dtype} before: a store holds rows of one shape."
                )
            part[name] = array
        self._inputs.add(x)
        self._labels.add(labels(part))
        self._parts.append(part)
        self._rows += len(next(iter(part.values())))
        # Whole batches: the same samples are computed together again after a crash.
        if self._rows >= self._manifest.rows_per_shard:
            self._flush()

    def _flush(self) -> None:
        if not self._parts:
            return
        # What is put together is let go, column by column: half the memory.
        names = list(self._parts[0])
        whole = {name: np.concatenate([part.pop(name) for part in self._parts]) for name in names}
        data = encode(whole)
        name = f"shard-{len(self._manifest.shards):05d}.safetensors"
        self._folder.write(name, data)
        entry = ShardEntry(
            name, self._rows, len(data), zlib.crc32(data), self._inputs.values, self._labels.values
        )
        self._manifest = self._manifest.replace(shards=(*self._manifest.shards, entry))
        self._manifest.save(self._folder)
        self._parts, self._rows = [], 0
        self._inputs, self._labels = Checksums(), Checksums()


class Ahead:
    """Reads the next batches in a thread of its own."""

    def __init__(self, source: Iterator[Batch]) -> None:
        self._source = source
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for batch in self._source:
                self._give((batch, None))
                if self._closed:
                    return
            self._give((None, None))
        except BaseException as error:
            self._give((None, error))

    def _give(self, item: Any) -> None:
        while not self._closed:
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))
            raise error
        if batch is None:
            self._queue.put((None, None))
            raise StopIteration
        return batch

    def close(self) -> None:
        self._closed = True
        self._thread.join()


def coded(keys: Sequence[Any] | None) -> tuple[np.ndarray, bool] | None:
    """Return keys as an array of numbers, and whether they are texts."""
    if keys is None:
        return None
    array = np.asarray(keys)
    if array.ndim != 1 or array.dtype.kind not in "iuUOS":
        raise FeatureError("keys is a list of integers or of texts, one for each sample.")
    if array.dtype.kind in "iu":
        return array, False
    texts = [str(key).encode() for key in array]
    width = max(1, *map(len, texts)) if texts else 1
    return np.frombuffer(b"".join(t.ljust(width, b"\0") for t in texts), np.uint8).reshape(
        len(texts), width
    ), True
