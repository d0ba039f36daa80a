"""Checksums of shards, of the manifest, of arrays, and of each sample."""

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
            if i not in self._found:
                self._found[i] = _hasher()
            if data.dtype.hasobject:
                self._found[i].update(_texts(data))
            else:
                self._found[i].update(data.reshape(-1).view(np.uint8))

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(found.hexdigest() for found in self._found.values())


def digests(x: Any) -> np.ndarray:
    """Return the XXH3 hash of each sample, as 64-bit integers.

    A text has the same hash in arrays of texts of any length, and as `str` or UTF-8 bytes.

    Args:
        x: Arrays with one row for each sample, nested in any way.

    >>> one, other = digests(np.eye(3)), digests([np.eye(3)[[2, 0]]])
    >>> one[[2, 0]].tolist() == other.tolist()
    True
    """
    found = [_of_rows(np.ascontiguousarray(leaf)) for leaf in tree.flatten(x)]
    return found[0] if len(found) == 1 else _of_rows(np.stack(found, 1))


def _of_rows(array: np.ndarray) -> np.ndarray:
    hashed, count = _library().xxh3_64_intdigest, len(array)
    if array.dtype.kind in "OSU":
        return np.array([hashed(_texts(row)) for row in array], np.uint64)
    width = array.nbytes // count if count else 0
    data = array.reshape(-1).view(np.uint8).data
    return np.fromiter(
        (hashed(data[i * width : (i + 1) * width]) for i in range(count)), np.uint64, count
    )


def _texts(array: Any) -> bytes:
    """Return the texts in an array as bytes that tell where each ends."""
    texts = [
        text.encode() if isinstance(text, str) else bytes(text)
        for text in np.ravel(np.asarray(array)).tolist()
    ]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def _hasher() -> Any:
    return _library().xxh3_64()


def _library() -> Any:
    try:
        import xxhash
    except ImportError as error:
        raise FeatureError(
            "Stores need xxhash, which is an extra: pip install 'keras-graft[features]'"
        ) from error
    return xxhash
