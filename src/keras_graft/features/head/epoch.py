"""One pass over the rows of stores: batches, read in blocks, and ahead if reading is slow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

_BLOCK = 1 << 20
"""Bytes that are read at once: for small batches, a call takes as long as the reading."""
_AHEAD = 2
"""Blocks that are read ahead."""
_FAST = 1 << 30
"""Bytes a second. If reading is slower than this, blocks are read ahead."""
_SURE = 0.05
"""Seconds of reading after which its speed is known."""


class Epoch:
    """The batches of one order of samples.

    Whoever gets a batch may write into it: it is never given again.

    Args:
        rows: Returns samples by their numbers.
        order: The numbers.
        batch_size: Samples in a batch.
        row_bytes: Bytes of a sample.
    """

    def __init__(
        self, rows: Callable[[np.ndarray], Any], order: np.ndarray, batch_size: int, row_bytes: int
    ) -> None:
        self._rows, self._order = rows, order
        self._batch_size, self._row_bytes = batch_size, row_bytes
        self._together = max(1, _BLOCK // max(1, batch_size * row_bytes))  # batches in a block
        self._current: tuple[int, Any] = (-1, None)
        self._ahead: dict[int, Future[Any]] = {}
        self._next = 0
        self._read, self._took = 0, 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def batch(self, index: int) -> Any:
        """Return a batch."""
        block, place = divmod(index, self._together)
        with self._lock:
            rows = self._batches(index, 1)
            in_turn = index == self._next
            self._next = index + 1
            forked = self._process != os.getpid()
            if forked:  # a fork has no threads
                self._process, self._pool = os.getpid(), None
            if forked or not in_turn:
                self._current, self._ahead = (-1, None), {}
            # `fit(shuffle=True)` asks out of turn: nobody knows which batch is next.
            if not in_turn and index:
                return self._rows(rows)
            whole = self._block(block)
        start = place * self._batch_size
        return keras.tree.map_structure(lambda array: array[start : start + len(rows)], whole)

    def _block(self, number: int) -> Any:
        """Return a block of batches. If reading is slow, start to read the next blocks."""
        if self._current[0] == number:
            return self._current[1]
        count = self._together
        ready = self._ahead.pop(number, None)
        if ready is None:
            start, rows = time.perf_counter(), self._batches(number * count, count)
            found = self._rows(rows)
            self._took += time.perf_counter() - start
            self._read += len(rows) * self._row_bytes
        else:
            found = ready.result()
        self._current = number, found
        # From the page cache, a thread would cost more time than it saves.
        if self._took > _SURE and self._read < _FAST * self._took:
            self._pool = self._pool or ThreadPoolExecutor(1, "keras_graft_features")
            blocks = -(-len(self._order) // (self._batch_size * count))
            self._ahead = {
                other: self._ahead.get(other)
                or self._pool.submit(self._rows, self._batches(other * count, count))
                for other in range(number + 1, min(number + 1 + _AHEAD, blocks))
            }
        return found

    def several(self, count: int) -> Iterator[Any]:
        """Yield `count` batches at a time, in order; the last time there may be fewer."""
        for first in range(0, -(-len(self._order) // self._batch_size), count):
            yield self._rows(self._batches(first, count))

    def _batches(self, first: int, count: int) -> np.ndarray:
        """Return the numbers of the samples of some batches."""
        return self._order[first * self._batch_size : (first + count) * self._batch_size]
