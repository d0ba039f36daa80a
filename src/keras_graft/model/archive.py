"""Open `.keras` files that are not trusted: the whole zip is checked before Keras reads it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_graft.errors import FileError
from keras_graft.model import hdf5
from keras_graft.printable import words_of

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_STEP = 2**20


class Archive:
    """A `.keras` file, open for reading.

    Args:
        zipped: The zip.
        path: Where it is.
    """

    def __init__(self, zipped: zipfile.ZipFile, path: Path) -> None:
        self._zipped = zipped
        self._path = path
        self._size = path.stat().st_size

    @contextlib.contextmanager
    def weights(self) -> Iterator[Any]:
        """Open the HDF5 file of weights in it, checked by `hdf5.opened`."""
        info = self._zipped.getinfo(_WEIGHTS)
        with contextlib.ExitStack() as stack:
            if info.compress_type == zipfile.ZIP_STORED:
                data: Any = stack.enter_context(_Window(self._path, info))
            else:
                data = io.BytesIO(self._zipped.read(info))
            yield stack.enter_context(hdf5.opened(data, self._path.name, self._size))

    def check(self) -> None:
        """Read everything once; check sizes, checksums, and that the files of Keras are there.

        Raises:
            FileError: If a check fails.
        """
        infos = self._zipped.infolist()
        names = Counter(info.filename for info in infos)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise self._damaged(f"it has {twice[0]!r} twice")
        missing = [name for name in (_CONFIG, _WEIGHTS) if name not in names]
        if missing:
            raise self._damaged(f"it has no {missing[0]}")
        total, limit = sum(info.file_size for info in infos), hdf5.allowance(self._size)
        if total > limit:
            raise FileError(
                f"{self._path.name!r} has {self._size:,} bytes and says that it unpacks to "
                f"{total:,}, so it is not read. If it is only well compressed, load and save it "
                "with Keras, which does not compress."
            )
        for info in infos:
            with self._zipped.open(info) as member:
                while member.read(_STEP):  # compares the checksum at the end
                    pass
        json.loads(self._zipped.read(_CONFIG))

    def _damaged(self, what: str) -> FileError:
        return FileError(f"{self._path.name!r} is damaged: {what}.")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a `.keras` file, and check all of it except the values of the weights.

    Raises:
        FileError: If it is damaged, refers to other files, or would unpack to far more than it is.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = Archive(stack.enter_context(zipfile.ZipFile(path)), path)
            archive.check()
            with archive.weights():
                pass
        except FileError:
            raise
        except Exception as error:  # from zipfile, zlib, json and what they call
            kind = type(error).__name__
            raise FileError(
                f"{path.name!r} is damaged ({kind}: {words_of(error)[:200]})."
            ) from error
        yield archive


class _Window(io.RawIOBase):
    """An uncompressed member of a zip, read in place."""

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._file = path.open("rb")
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._start = info.header_offset + 30 + lengths
        self._size = info.file_size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(view[:count])
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()
