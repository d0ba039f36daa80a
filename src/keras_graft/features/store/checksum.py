"""Checksums of shards, of the manifest, and of the arrays that shards are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError

tree = keras.tree


def checksum(pieces: Iterable[Any]) -> str:
    """Return the XXH3 hash of bytes, in pieces: 64 bits, in hexadecimal digits.

    It is as fast as memory. CRC-32 would take some percent of the time of a fast trunk.
    """
    found = _hasher()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


class Checksums:
    """One checksum for each array; how the arrays are cut into batches does not matter."""

    def __init__(self) -> None:
        self._found: dict[int, Any] = {}

    def add(self, x: Any) -> None:
        for i, leaf in enumerate(tree.flatten(x)):
            data = np.ascontiguousarray(leaf)
            if data.dtype.hasobject:
                raise FeatureError("An input holds Python objects, not numbers.")
            if i not in self._found:
                self._found[i] = _hasher()
            self._found[i].update(data.reshape(-1).view(np.uint8))

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(found.hexdigest() for found in self._found.values())


def _hasher() -> Any:
    try:
        import xxhash
    except ImportError as error:
        raise FeatureError(
            "Stores need xxhash, which is an extra: pip install 'keras-graft[features]'"
        ) from error
    return xxhash.xxh3_64()
