"""One pass over the rows of stores in windows of blocks: read in sequence, mixed in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_graft.features.head.order import BlockOrder


class WindowEpoch:
    """The batches of one epoch, as `Epoch` gives them, from windows of blocks.

    A window is read as a whole, each block with one request for a column. While its batches are given
    a thread reads the next one, so two windows are in memory.

    Args:
        rows: Returns samples by their numbers.
        order: The blocks; a window is a multiple of the batch size.
        batch_size: Samples in a batch.
        numbers: Returns samples of the store for rows of the order; None: they are the same.
    """

    def __init__(
        self, rows: Callable[[np.ndarray], Any], order: BlockOrder, batch_size: int,
        numbers: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self._rows, self._order, self._batch_size = rows, order, batch_size
        self._numbers = numbers
        self._windows = -(-len(order) // order.window)
        self._current: tuple[int, Any, Any] = (-1, None, None)
        self._ahead: tuple[int, Future[Any]] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()

    def batch(self, index: int) -> Any:
        """Return a batch. The one who gets it may write into it."""
        with self._lock:
            return self._part(index, 1)

    def several(self, count: int) -> Iterator[Any]:
        """Yield up to `count` batches at a time, in order."""
        batches, each = (
            -(-len(self._order) // self._batch_size),
            self._order.window // self._batch_size,
        )
        index = 0
        while index < batches:
            now = min(count, each - index % each)
            with self._lock:
                found = self._part(index, now)
            yield found
            index += now

    def _part(self, index: int, count: int) -> Any:
        number, start = divmod(index * self._batch_size, self._order.window)
        whole, mixed = self._window(number)
        chosen = mixed[start : start + count * self._batch_size]
        return keras.tree.map_structure(lambda array: array[chosen], whole)

    def _window(self, number: int) -> tuple[Any, np.ndarray]:
        """Return the samples of a window, and their order; begin to read the next one."""
        if self._process != os.getpid():  # a fork has no threads
            self._process, self._pool, self._ahead = os.getpid(), None, None
        if self._current[0] != number:
            ahead, self._ahead = self._ahead, None
            self._current = (-1, None, None)  # its memory is needed
            found = ahead[1].result() if ahead and ahead[0] == number else self._read(number)
            self._current = number, found, self._order.mixed(number)
        if self._ahead is None and number + 1 < self._windows:
            self._pool = self._pool or ThreadPoolExecutor(1, "keras_graft_features")
            self._ahead = number + 1, self._pool.submit(self._read, number + 1)
        return self._current[1], self._current[2]

    def _read(self, number: int) -> Any:
        rows = self._order.rows(number)
        return self._rows(rows if self._numbers is None else self._numbers(rows))
