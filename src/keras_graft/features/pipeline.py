"""What runs beside the trunk: reading ahead, and writing shards behind."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.building import Building
from keras_graft.features.columns import Columns
from keras_graft.features.data import Batch
from keras_graft.features.manifest import Manifest, Skipped
from keras_graft.features.place import Place
from keras_graft.features.shards import shard_name

_WAITING = 3
"""Batches that wait on each side of the trunk, at most."""


class Beside:
    """One thread that makes calls in order; once one fails, the calls after it fail like it.

    It is no `ThreadPoolExecutor`: Python waits for the threads of these when it exits, and a
    source of data may wait for ever.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Return what the call will give."""
        future: Future[Any] = Future()
        self._calls.put((future, call, args))
        return future

    def stop(self, cancel: bool = False) -> None:
        """Wait for all calls; with `cancel`, only for the one that is being made."""
        if cancel:
            self._failed = CancelledError()
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call, args = given
            try:
                result = None if self._failed else call(*args)
            except BaseException as error:
                result, self._failed = None, error
            if self._failed:
                future.set_exception(self._failed)
            else:
                future.set_result(result)


class Writer:
    """Writes shards in a thread, while the next batches are computed."""

    def __init__(self, place: Place, manifest: Manifest, columns: Columns, skip: bool) -> None:
        self._place, self._folder, self._manifest = place, place.folder, manifest
        self._begun = False
        self._columns, self._skip = columns, skip
        self._building = Building(columns, manifest.columns)
        self._thread, self._waiting = Beside(), deque[Future[None]]()

    def put(self, *batch: Any) -> None:
        """Take what `Building.add` takes; raise what went wrong with a batch before it."""
        while self._waiting and (len(self._waiting) == _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._add, *batch))

    def finish(self) -> None:
        """Write what is left, and say that the data came to its end."""
        self._thread.submit(self._end).result()

    def stop(self) -> None:
        """End the thread; what is not a whole shard yet is lost, as if killed."""
        self._thread.stop()

    def _end(self) -> None:
        self._flush()
        self._manifest = self._manifest.replace(complete=True)
        self._manifest.save(self._folder)

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


def read_ahead(source: Iterator[Batch]) -> Generator[Batch]:
    """Yield batches that a thread reads, some of them ahead.

    To close it waits for the batch that is being read; no other is read then.
    """
    thread = Beside()
    waiting = deque(thread.submit(next, source, None) for _ in range(_WAITING))
    try:
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield batch
    finally:
        thread.stop(cancel=True)
