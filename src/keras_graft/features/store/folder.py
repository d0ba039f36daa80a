"""A local folder in which files are written whole and durably, or not at all.

`remote.py` has the same interface for object stores.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.failures import guarded, said, way_out

try:
    import fcntl
except ImportError:  # Windows: two writers at once are not noticed there
    fcntl = None

TEMPORARY = ".keras-graft.part"
"""The end of a file's name while it is written. A killed writer leaves such files behind."""


class Parts:
    """An open file of which parts are read, by several threads.

    Args:
        path: The file.
        preadv: What reads from a place on; None where the system has no such call.
    """

    def __init__(self, path: Path, preadv: Any = getattr(os, "preadv", None)) -> None:  # noqa: B008
        self._preadv = preadv
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - it stays open
        self._number = self._file.fileno()
        self._lock = threading.Lock()

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of the file from `start` on.

        Raises:
            FeatureError: If it ends before that, or if the system cannot read it.

        It does not use a memory map: Linux maps more pages than are touched, so after reading
        shuffled rows the whole store would soon count as resident.
        """
        try:
            done = self._some(start, buffer)
            while done < len(buffer):  # Linux reads at most 2 GiB at once
                count = self._some(start + done, buffer[done:])
                if not count:
                    raise FeatureError(
                        f"{self._file.name} ends before byte {start + buffer.nbytes}"
                    )
                done += count
        except OSError as error:
            raise FeatureError(
                f"{self._file.name} cannot be read: {said(error)}. {way_out(error)}"
            ) from error

    def ahead(self, start: int, length: int) -> None:
        """Let the system read some bytes before they are asked for, if it has a call for that."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._number, start, length, os.POSIX_FADV_WILLNEED)

    def _some(self, start: int, buffer: memoryview) -> int:
        if self._preadv is not None:
            return self._preadv(self._number, (buffer,), start)
        with self._lock:
            self._file.seek(start)
            return self._file.readinto(buffer)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class Folder:
    """A folder of files. Each is written under another name, synced, then renamed.

    Args:
        path: The folder. The first write makes it.
    """

    failures: tuple[type[Exception], ...] = (OSError, ValueError)
    """What the file system raises. Python raises a ValueError for a name with a NUL in it."""
    secrets: tuple[str, ...] = ()
    """Texts that must not be shown."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.expanduser(path))  # an unknown user's tilde stays

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """The path, for other processes."""
        return str(self.path.resolve())

    def shown(self, text: str) -> str:
        """Return a text of the file system without secrets."""
        return text

    @guarded("{} cannot be written")
    def write(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file. Until it is on the disk as a whole, the old file stays."""
        self.path.mkdir(parents=True, exist_ok=True)
        beside = self.path / f"{name}{TEMPORARY}"
        beside.unlink(missing_ok=True)
        try:
            with open(beside, "xb") as file:  # not through a link that may be there
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path / name)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._sync()

    def create(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file that nobody but this writer can have written: the folder is locked."""
        self.write(name, *pieces)

    def _sync(self) -> None:
        """Make sure that a rename is on the disk."""
        if os.name == "posix":
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @guarded("{} cannot be read")
    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Return the bytes of a file, or None if there is no such file.

        Args:
            name: The file.
            most: The largest size that is read; a larger file is refused.
        """
        path = self.path / name
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise self._no_folder() from None
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise IsADirectoryError(errno.EISDIR, "it is not a file")
        self._check_size(name, found.st_size, most)
        try:
            return path.read_bytes()
        except FileNotFoundError:  # a writer has just deleted it
            return None

    def _check_size(self, name: str, size: int | None, most: int | None) -> None:
        if most is not None and size is not None and size > most:
            raise FeatureError(
                f"{self}/{name} cannot be read: it has {size:,} bytes, and at most {most:,} are "
                "read: it was not written by keras-graft, or the disk is damaged."
            )

    def _no_folder(self) -> FeatureError:
        return FeatureError(
            f"{self.path} is a file, or is inside one, but a store is a folder: give another path."
        )

    def stamp(self, name: str) -> Any:
        """Return a value that changes when a file is written again; None if that is unknown."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    @guarded("it cannot be listed")
    def sizes(self) -> dict[str, int]:
        """Return the size of every file, by name."""
        if not self.path.is_dir():
            return {}
        with os.scandir(self.path) as files:
            found = {file.name: size for file in files if (size := _size(file)) is not None}
        return {name: found[name] for name in sorted(found)}

    @guarded("{} cannot be deleted")
    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        (self.path / name).unlink(missing_ok=True)

    @guarded("{} cannot be read")
    def piece(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file, read from the disk."""
        with open(self.path / name, "rb") as file:
            file.seek(start)
            return file.read(length)

    @guarded("{} cannot be read")
    def checksum(self, name: str) -> str:
        """Return the checksum of a file, read from the disk in pieces."""
        with open(self.path / name, "rb") as file:
            return checksum(iter(lambda: file.read(1 << 22), b""))

    @guarded("{} cannot be opened")
    def open(self, name: str, known: str, size: int = 0) -> Parts:
        """Open a file to read parts of it. It is closed when nothing refers to it.

        Args:
            name: The file.
            known: Its checksum, which is compared if the file has to be fetched.
            size: Its size, for which room is made if it has to be fetched.
        """
        return Parts(self.path / name)

    @guarded("it cannot be locked")
    def lock(self) -> Any:
        """Return a context that keeps other writers out, or None if another is writing.

        The lock ends with the process, also if that is killed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._no_folder() from None
        place = self.path / "lock"
        self._check_lock(place)
        try:
            handle = open(place, "a")  # noqa: SIM115 - it stays open
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            if not os.access(self.path, os.W_OK):
                return contextlib.nullcontext()  # a store that is complete can be read
            handle = open(place)  # noqa: SIM115 - another user's lock
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                return None
            except OSError:  # a file system without locks: two writers are not noticed
                return handle
        return _locked(handle)

    def _check_lock(self, place: Path) -> None:
        """Refuse a lock file that no writer made: theirs are empty."""
        try:
            found = place.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or found.st_size:
            raise FeatureError(
                f"{self} holds a 'lock' that keras-graft did not write: its own is an empty file. "
                "Give another folder, or move it away."
            )


def _size(file: os.DirEntry[str]) -> int | None:
    """Return the size of a file; None if it is none, or if it was deleted since it was listed."""
    try:
        return file.stat().st_size if file.is_file() else None
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _locked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # Without this, child processes that the data has started would keep the lock.
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_UN)
        handle.close()
