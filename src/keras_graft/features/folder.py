"""Where shards are written: whole files, durably, or not at all.

The one interface for it: `remote.py` has the same for object stores.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.checksum import checksum

try:
    import fcntl
except ImportError:  # Windows: two writers at once are not noticed there
    fcntl = None

_TEMPORARY = ".part"
_OURS = re.compile(r"shard-(\d+|[0-9a-f]{32})\.safetensors(\.part)?|manifest\.json\.part")
"""What a killed writer leaves; everything else in a folder is the user's."""
_PREADV = getattr(os, "preadv", None)  # macOS, Windows: it may not be there


class Parts:
    """An open file of which parts are read, by several threads."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - it is to stay open
        self._number = self._file.fileno()
        self._lock = threading.Lock()

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with what stands in the file from `start` on.

        Not from a memory map: Linux maps more than the pages that are touched, so shuffled rows
        would soon count the whole store as resident.
        """
        done = self._some(start, buffer)
        while done < len(buffer):  # Linux reads 2 GiB at once, and no more
            count = self._some(start + done, buffer[done:])
            if not count:
                raise OSError(f"{self._file.name} ends before byte {start + buffer.nbytes}")
            done += count

    def _some(self, start: int, buffer: memoryview) -> int:
        if _PREADV is not None:
            return _PREADV(self._number, (buffer,), start)
        with self._lock:
            self._file.seek(start)
            return self._file.readinto(buffer)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class Folder:
    """A folder of files, each written beside its place, synced, and renamed.

    Args:
        path: The folder; made by the first write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.expanduser(path))  # a user that is none stays as it is

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """Where it is, for other processes."""
        return str(self.path.resolve())

    def write(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file; when this returns, it is on the disk, and before, the old one is."""
        self.path.mkdir(parents=True, exist_ok=True)
        beside = self.path / f"{name}{_TEMPORARY}"
        try:
            with open(beside, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path / name)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._sync()

    def _sync(self) -> None:
        """Let a rename itself reach the disk."""
        if os.name == "posix":
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def read(self, name: str) -> bytes | None:
        """Return what a file holds, None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise self._no_folder() from None

    def _no_folder(self) -> FeatureError:
        return FeatureError(
            f"{self.path} is a file, or lies in one, and a store is a folder: give another path."
        )

    def stamp(self, name: str) -> Any:
        """Return what changes when a file is written anew, None if nothing tells."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def sizes(self) -> dict[str, int]:
        """Return how long every file is, by name."""
        if not self.path.is_dir():
            return {}
        return {p.name: p.stat().st_size for p in sorted(self.path.iterdir()) if p.is_file()}

    def delete(self, name: str) -> None:
        """Take a file away, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def piece(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file, read anew."""
        with open(self.path / name, "rb") as file:
            file.seek(start)
            return file.read(length)

    def checksum(self, name: str) -> str:
        """Return that of a file, read anew and in pieces."""
        with open(self.path / name, "rb") as file:
            return checksum(iter(lambda: file.read(1 << 22), b""))

    def open(self, name: str, known: str) -> Parts:
        """Open a file to read parts of it, closed when nobody uses it any more.

        Args:
            name: The file.
            known: Its checksum, for a place that has to fetch it first.
        """
        return Parts(self.path / name)

    def sweep(self, keep: set[str]) -> None:
        """Delete what a killed writer left: temporary files, and shards that nobody knows."""
        for name in self.sizes():
            if name not in keep and _OURS.fullmatch(name):
                self.delete(name)

    def lock(self) -> Any:
        """Return a context that keeps other writers out, or None if one is in.

        The lock is the process's: a killed one holds none.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._no_folder() from None
        try:
            handle = open(self.path / "lock", "w")  # noqa: SIM115 - it is to stay open
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            if not os.access(self.path, os.W_OK):
                return contextlib.nullcontext()  # a store that is complete can be read
            handle = open(self.path / "lock")  # noqa: SIM115 - that of another user
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                return None
            except OSError:  # a file system without locks: there too they are not noticed
                return handle
        return _locked(handle)


@contextlib.contextmanager
def _locked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # Closing alone would leave it to processes that the data has started meanwhile.
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)
        handle.close()
