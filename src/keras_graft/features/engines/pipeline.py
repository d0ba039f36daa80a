"""Threads that work while the trunk runs: one reads the next batches, one writes shards."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.features.engines.building import Building
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.entries import Skipped
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.location import Location
from keras_graft.features.store.manifest import Manifest
from keras_graft.features.store.shards import shard_name

_WAITING = 3
"""The most batches that wait to be computed, and to be written."""
EVERY = 60.0
"""Seconds after which a shard is written though it is not full: so much is lost by a kill."""
clock = time.monotonic
"""What tells the time. Tests replace it."""


class Beside:
    """Makes calls in one thread, in order. After a call has failed, all others fail the same way.

    Args:
        idle: What is called when there was nothing to do for some time.
        seconds: How long that is; None: it is never called.

    It is not a `ThreadPoolExecutor`: Python waits for the threads of those when it exits, and a
    source of data may wait forever.
    """

    def __init__(self, idle: Callable[[], Any] = tuple, seconds: float | None = None) -> None:
        self._idle, self._seconds = idle, seconds
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Return the future result of a call."""
        future: Future[Any] = Future()
        self._calls.put((future, call, args))
        return future

    def stop(self, cancel: bool = False) -> None:
        """Wait for all calls; with `cancel`, only for the one that is running."""
        if cancel:
            self._failed = CancelledError()
        self._calls.put(None)
        if not self._abandoned:
            self._thread.join()

    def abandon(self) -> None:
        """End after the call that is running, without waiting for it."""
        self._failed, self._abandoned = CancelledError(), True
        self._calls.put(None)

    def _work(self) -> None:
        while (given := self._next()) is not None:
            future, call, args = given
            try:
                result = None if self._failed else call(*args)
            except BaseException as error:
                result, self._failed = None, error
            if self._failed:
                future.set_exception(self._failed)
            else:
                future.set_result(result)

    def _next(self) -> Any:
        """Return the next call, and what to do with it; None at the end."""
        try:
            return self._calls.get(timeout=self._seconds)
        except queue.Empty:
            return Future(), self._idle, ()


class Writer:
    """Writes shards in a thread, while the next batches are computed.

    A shard is written when it is full, and when some time has passed since the last.
    """

    def __init__(
        self, location: Location, manifest: Manifest, columns: Columns, skip: bool
    ) -> None:
        self._location, self._folder, self._manifest = location, location.folder, manifest
        self._journal: Journal | None = None
        self._begun = location.is_new
        self._columns, self._skip = columns, skip
        self._building, self._written = Building(columns, manifest.columns), clock()
        self._thread, self._waiting = Beside(self._in_time, EVERY), deque[Future[None]]()
        if location.is_new:  # so that it is known what was begun
            self._thread.submit(self._begin)

    def put(self, *batch: Any) -> None:
        """Write a batch, given as `Building.add` takes it; raise the error of an earlier batch."""
        while self._waiting and (len(self._waiting) == _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._add, *batch))

    def wait(self) -> None:
        """Wait until all batches are added; raise the error of one that cannot be."""
        while self._waiting:
            self._waiting.popleft().result()

    @property
    def manifest(self) -> Manifest:
        """The manifest of what is written."""
        return self._manifest if self._journal is None else self._journal.manifest

    @property
    def begun(self) -> bool:
        """Whether anything is written: then no old store is there any longer."""
        return self._begun

    def keep(self) -> None:
        """Write what is computed, though the shard is not full; the store stays incomplete."""
        self._thread.submit(self._fold).result()

    def finish(self) -> None:
        """Write the last shard, and mark the store as complete."""
        self._thread.submit(self._end).result()

    def stop(self) -> None:
        """End the thread. A shard that is not full yet is lost, as if the process was killed."""
        self._thread.stop()

    def abandon(self) -> None:
        """End the thread after the write that is running, without waiting for it."""
        self._thread.abandon()

    def _end(self) -> None:
        self._flush()
        self._begin().finish()

    def _fold(self) -> None:
        self._flush()
        if self._journal is not None:
            self._journal.fold()

    def _begin(self) -> Journal:
        """Return what adds shards to the store; before the first, prepare the folder."""
        if self._journal is None:
            self._journal, self._begun = self._location.begin(self._manifest), True
        return self._journal

    def _add(self, *batch: Any) -> None:
        self._building.add(*batch)
        if self._building.skipped and not self._skip:
            raise failed(self._building.skipped[0])
        # Only whole batches: after a crash the same samples are computed together again.
        if self._building.samples >= self._manifest.rows_per_shard:
            self._flush()
        self._in_time()

    def _in_time(self) -> None:
        """Write the shard if it is time to."""
        if clock() - self._written >= EVERY:
            self._flush()

    def _flush(self) -> None:
        self._written = clock()
        if not self._building.samples:
            return
        pieces, entry = self._building.finish(shard_name(self.manifest.shards.next_number))
        journal = self._begin()
        self._folder.create(entry.file, *pieces)
        journal.add(entry)
        self._building = Building(self._columns, self._manifest.columns)


def failed(sample: Skipped) -> FeatureError:
    """Return the error for a sample that fails."""
    return FeatureError(
        f"Sample {sample.index} fails: {sample.reason}. The shards before it are kept. Use "
        'on_error="skip" to leave out such samples and list them in the store.'
    )


def read_ahead(source: Iterator[Batch], thread: Beside | None = None) -> Generator[Batch]:
    """Yield batches that a thread reads in advance.

    Closing it waits for the batch that is being read, and reads no more.
    """
    thread = Beside() if thread is None else thread
    waiting = deque(thread.submit(next, source, None) for _ in range(_WAITING))
    try:
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield batch
    finally:
        thread.stop(cancel=True)
