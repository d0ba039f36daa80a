"""What runs beside the trunk: reading ahead, and writing shards behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.features.engines.building import Building
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.manifest import Manifest, Skipped, shard_name
from keras_graft.features.store.place import Place


class Writer:
    """Writes shards in a thread of its own, while the next batches are computed."""

    def __init__(self, place: Place, manifest: Manifest, columns: Columns, skip: bool) -> None:
        self._place, self._folder, self._manifest = place, place.folder, manifest
        self._begun = False
        self._columns, self._skip = columns, skip
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._building = Building(columns, manifest.columns)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, *batch: Any) -> None:
        """Take what `Building.add` takes; nothing at the end."""
        while self._error is None:
            try:
                return self._queue.put(batch, timeout=0.1)
            except queue.Full:
                continue
        raise self._error

    def finish(self) -> None:
        """Write what is left, and say that the data came to its end."""
        self.put()
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
            while (batch := self._queue.get()) is not None:
                if batch:
                    self._add(*batch)
                else:
                    self._flush()
                    self._manifest = self._manifest.replace(complete=True)
                    self._manifest.save(self._folder)
        except BaseException as error:  # it is raised where the next batch is put
            self._error = error

    def _add(self, *batch: Any) -> None:
        self._building.add(*batch)
        if self._building.skipped and not self._skip:
            raise failed(self._building.skipped[0])
        # Whole batches: the same samples are computed together again after a crash.
        if self._building.samples >= self._manifest.rows_per_shard:
            self._flush()

    def _flush(self) -> None:
        if not self._building.samples:
            return
        pieces, entry = self._building.finish(shard_name(len(self._manifest.shards)))
        if not self._begun:
            self._place.begin(self._manifest)
            self._begun = True
        self._folder.write(entry.file, *pieces)
        self._manifest = self._manifest.replace(shards=(*self._manifest.shards, entry))
        self._manifest.save(self._folder)
        self._building = Building(self._columns, self._manifest.columns)


def failed(sample: Skipped) -> FeatureError:
    """Return what is raised for a sample that fails."""
    return FeatureError(
        f"Sample {sample.index} fails: {sample.reason}. The shards before it are kept. To leave "
        'out such samples, and list them in the store: on_error="skip".'
    )


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
