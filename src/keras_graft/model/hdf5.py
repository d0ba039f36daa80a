"""Open HDF5 weight files that are not trusted: all is checked before any value is read.

HDF5 can refer to other files (external links, external storage, virtual datasets), contain itself,
and announce far more data than it holds. A file of weights needs none of that.
"""

from __future__ import annotations

import contextlib
import functools
import math
import struct
from collections.abc import Iterator
from typing import Any

from keras_graft.errors import FileError
from keras_graft.printable import words_of

_SLACK = 64 * 2**20
_RATIO = 4
_DEPTH = 100
_STEP = 2**24
_HEAP_SIGNATURE = b"GCOL"
_HEAP = struct.Struct("<4s4xQ")
"""How a global heap begins: the signature, a version, and how many bytes it has."""

ELSEWHERE = (
    "Only files that hold their own values are read. If you trust it, load it with your own code, "
    "and use keras_graft on the model."
)


def allowance(size: int) -> int:
    """Return how many bytes a file of that size may unpack to."""
    return _RATIO * size + _SLACK


@contextlib.contextmanager
def opened(source: Any, name: str, size: int) -> Iterator[Any]:
    """Open an HDF5 file for reading, and check all of it except the values.

    Args:
        source: A path, or an open binary file.
        name: What error messages call it.
        size: Its size on the disk in bytes.

    Raises:
        FileError: If it is damaged, refers to other files, or would unpack to far more than `size`.
    """
    import h5py

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(source, "r"))
            _Check(name, allowance(size), source).run(file)
        except FileError:
            raise
        except Exception as error:  # a damaged file makes h5py raise anything
            raise FileError(
                f"{name!r} is damaged: {words_of(error)[:300] or type(error).__name__}"
            ) from error
        yield file


class _Check:
    """Walks through a file without recursion, and counts the bytes that reading it would take."""

    def __init__(self, name: str, limit: int, source: Any) -> None:
        self._name = name
        self._limit = limit
        self._source = source
        self._bytes = 0
        self._groups: set[Any] = set()

    def run(self, file: Any) -> None:
        import h5py

        waiting = [(file, "", 0)]
        while waiting:
            group, path, depth = waiting.pop()
            self._enter(group, path, depth)
            for key in group:
                inner = f"{path}/{key}".lstrip("/")
                self._link(group, key, inner)
                item = group[key]
                if isinstance(item, h5py.Group):
                    waiting.append((item, inner, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    self._attributes(item, inner)
                    self._dataset(item, inner)
                else:
                    raise self._refusal(inner, f"is a {type(item).__name__}, not numbers")

    def _refusal(self, path: str, what: str) -> FileError:
        return FileError(f"{self._name!r} is damaged or forged: {path or '/'!r} {what}.")

    def _enter(self, group: Any, path: str, depth: int) -> None:
        import h5py

        info = h5py.h5o.get_info(group.id)  # pyright: ignore[reportAttributeAccessIssue]
        known = (info.fileno, info.addr)
        if known in self._groups:
            raise self._refusal(path, "is a group that appears in two places")
        if depth > _DEPTH:
            raise self._refusal(path[:60], f"is more than {_DEPTH} groups deep")
        self._groups.add(known)
        self._attributes(group, path)

    def _link(self, group: Any, key: str, path: str) -> None:
        import h5py

        try:
            path.encode()
        except UnicodeEncodeError:
            raise self._refusal(path, "has a name that is not text") from None
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "filename", None)
            where = f" to the file {target!r}" if target else ""
            raise FileError(
                f"{self._name!r}: {path!r} is a {type(link).__name__}{where}, and is not followed. "
                f"{ELSEWHERE}"
            )

    def _attributes(self, item: Any, path: str) -> None:
        for key in item.attrs:
            attribute = item.attrs.get_id(key)
            self._numbers(attribute.dtype, attribute.shape, path, f"has an attribute {key!r} that")

    def _dataset(self, data: Any, path: str) -> None:
        if data.external:
            raise FileError(
                f"{self._name!r}: the values of {path!r} are in another file, "
                f"{data.external[0][0]!r}, which is not read. {ELSEWHERE}"
            )
        if data.is_virtual:
            raise FileError(
                f"{self._name!r}: {path!r} is a virtual dataset: its values are in other places or "
                f"files, which are not read. {ELSEWHERE}"
            )
        if data.attrs.get("dtype") == "bfloat16" and data.dtype.str != "|V2":
            raise self._refusal(path, f"says that it is bfloat16, and is {data.dtype}")
        size = self._numbers(data.dtype, data.shape, path, "")
        if data.chunks is not None:  # a chunk is unpacked as a whole
            self._count(max(math.prod(data.chunks) * data.dtype.itemsize - size, 0), path)
        if size and not data.id.get_storage_size():
            raise self._refusal(path, f"has the shape {data.shape}, and no values were written")

    def _numbers(self, dtype: Any, shape: Any, path: str, what: str) -> int:
        """Refuse data that is neither numbers nor text, and count its bytes."""
        import h5py

        if shape is None:
            raise self._refusal(path, f"{what} holds nothing".strip())
        size = math.prod(shape)
        if h5py.check_string_dtype(dtype) is not None and dtype.kind == "O":
            # Texts are stored elsewhere in the file, and several entries may share one.
            self._count(max(size - 1, 0) * self._longest_text, path)
            return 0
        if dtype.kind not in "biufcSV" or dtype.fields or dtype.subdtype or dtype.hasobject:
            raise self._refusal(path, f"{what} holds {dtype}, not numbers".strip())
        self._count(size * dtype.itemsize, path)
        return size * dtype.itemsize

    @functools.cached_property
    def _longest_text(self) -> int:
        """Return how long a text can be: as long as the largest heap in which HDF5 keeps texts.

        Each heap begins with a signature and its size, so all are found by these four bytes.
        """
        with contextlib.ExitStack() as stack:
            file = self._source
            if not hasattr(file, "read"):
                file = stack.enter_context(open(file, "rb"))
            longest, size = 0, file.seek(0, 2)
            file.seek(0)
            block, before = b"", 0
            while more := file.read(_STEP):
                block = block[-_HEAP.size + 1 :] + more
                before = file.tell() - len(block)
                at = block.find(_HEAP_SIGNATURE)
                while at >= 0:
                    if len(block) - at >= _HEAP.size:
                        _, found = _HEAP.unpack_from(block, at)
                        longest = max(longest, min(found, size - before - at))
                    at = block.find(_HEAP_SIGNATURE, at + 1)
            return longest

    def _count(self, size: int, path: str) -> None:
        self._bytes += size
        if self._bytes > self._limit:
            raise self._refusal(
                path, f"would take {self._bytes:,} bytes with what is before it, far more than the "
                "file has. If it is only well compressed, load it with Keras, and use keras_graft "
                "on the model"
            )  # fmt: skip
