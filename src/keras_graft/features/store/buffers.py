"""Memory for batches, used again once nobody refers to what was in it."""

from __future__ import annotations

import sys
import threading

import numpy as np

_SMALLEST, _LARGEST, _ALL = 1 << 18, 32 << 20, 128 << 20
"""Memory of between so many bytes is used again, and so much is kept in all."""

_ALIGN = 64
"""Memory that starts so is taken by TensorFlow and JAX as it is; other memory is copied."""


def _references(items: list[np.ndarray], number: int) -> int:
    return sys.getrefcount(items[number])


def _counts() -> tuple[int, bool]:
    """Return the count of an array that only a list refers to, and whether one more is seen.

    Versions of Python differ in what they count, and without a GIL the count is no promise.
    """
    items = [np.empty(8, np.uint8)]
    alone = _references(items, 0)
    view = items[0][:4].view(np.uint16)
    held = _references(items, 0)
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    return alone, locked and held == alone + 1 and view.base is items[0]


_ALONE, _TOLD = _counts()


class Buffers:
    """Memory for batches.

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
        if not _SMALLEST <= size <= _LARGEST or not _TOLD:
            return _aligned(np.empty(size + _ALIGN, np.uint8), size)
        with self._lock:
            for i in range(len(self._kept)):
                # Not for much less: who keeps a little would keep all of it.
                room = len(self._kept[i]) - _ALIGN
                if size <= room <= 2 * size and _references(self._kept, i) == _ALONE:
                    self._kept.append(self._kept.pop(i))
                    break
            else:
                self._kept.append(np.empty(size + _ALIGN, np.uint8))
                while sum(map(len, self._kept)) > _ALL:
                    self._kept.pop(0)
            return _aligned(self._kept[-1], size)


def _aligned(memory: np.ndarray, size: int) -> np.ndarray:
    start = -memory.ctypes.data % _ALIGN
    return memory[start : start + size]
