"""The same as `folder.py` for object stores and all else that fsspec reaches."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.store.cache import Cache
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.failures import guarded, said
from keras_graft.features.store.folder import Folder, Parts
from keras_graft.features.store.masked import MASK, masked, secrets, without
from keras_graft.features.store.retries import again
from keras_graft.features.store.schema import encodable
from keras_graft.printable import shown

_LOCAL = ("file://", "local://")
_MISSING = (
    "URLs are opened with fsspec, which is an extra: pip install 'keras-graft[features]'. S3 also "
    "needs s3fs, Google's store gcsfs, Azure's adlfs."
)


def folder_at(
    path: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> Folder:
    """Return the folder at a local path or at a URL.

    Args:
        path: `"features"`, `"file:///data/features"`, `"s3://bucket/features"`, `"memory://x"`.
        cache: For a URL: a local folder to keep fetched files in.
        cache_bytes: The most bytes that are kept there; None: half of what is free on that disk.

    Raises:
        FeatureError: If it is neither, or if fsspec, or what it needs for this kind of URL, is not
            installed.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or not encodable(text):
        raise FeatureError(f"A store is a folder, given as its path or URL, got {shown(path)}.")
    if "://" not in text:
        if re.match(r"[a-z][a-z0-9+.-]+:/", text) and isinstance(path, os.PathLike):
            url = masked(text.replace(":/", "://", 1)).replace("://", ":/", 1)
            raise FeatureError(
                f"{url} was a URL, and a Path removes one of its slashes: give it as a str."
            )
        return Folder(text)
    for scheme in _LOCAL:  # local files can be renamed, which is safer
        if text.startswith(scheme):
            return Folder(text.removeprefix(scheme))
    if f"{MASK}@" in text or f"={MASK}" in text:
        raise FeatureError(
            f"{text} is a URL with its secrets masked, as it is shown: give the URL itself."
        )
    try:
        return _opened(text, cache, cache_bytes)
    except FeatureError:
        raise
    except Exception as error:  # whatever the file system raises
        hidden = secrets(text)
        missing = isinstance(error, ImportError | ValueError)
        hint = _MISSING if missing else "Is the URL right, and can its host be reached?"
        what = said(error, partial(without, hidden))
        wrong = FeatureError(f"{masked(text)}: {what}. {hint}")
        cause = None if hidden else error
    raise wrong from cause  # outside of `except`: no error with secrets in it is chained


def _opened(url: str, cache: str | os.PathLike[str] | None, most: int | None) -> Remote:
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    return Remote(system, root, url, cache, most)


class Remote(Folder):
    """A folder on a file system of fsspec. Files are written whole.

    An object store shows an object whole or not at all. It has no rename and no lock: a shard is
    written, then the segment of the journal that names it. A second writer is noticed when it
    changes the manifest, or when it makes a shard or a segment of the same name: the store itself
    refuses that where it can. On a file system that shows half a file (SFTP), a killed writer may
    leave half of one. Calls that fail for a reason that may pass are made again (`retries.py`).

    Args:
        system: The file system.
        root: The path of the folder on it.
        url: The URL as the user gave it.
        cache: A local folder to keep shards in; by default a temporary one.
        cache_bytes: The most bytes that are kept there.
    """

    failures = (Exception,)  # each kind of file system has its own errors

    def __init__(
        self, system: Any, root: str, url: str, cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root)
        self._system, self._root, self._url = system, root.rstrip("/"), url
        self.cache = Cache(None if cache is None else Folder(cache).path, cache_bytes)
        self._seen: dict[str, str | None] = {}  # checksums of what was read
        self._lock, self._made = threading.Lock(), False
        writes = getattr(type(system), "_pipe_file", type(system).pipe_file)
        self._refuses = "mode" in inspect.signature(writes).parameters
        self.secrets = tuple(secrets(url, getattr(system, "storage_options", None)))

    def __str__(self) -> str:
        return masked(self._url)

    def shown(self, text: str) -> str:
        """Return a text of the file system without secrets."""
        return without(self.secrets, text)

    @property
    def address(self) -> str:
        """The URL with its secrets, for other processes."""
        return self._url

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @guarded("{} cannot be written")
    def write(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file.

        Raises:
            FeatureError: If another process has changed it since it was read here.
        """
        data = b"".join(pieces)
        if name in self._seen:
            before = self._seen[name]
            self.read(name)
            if self._seen[name] != before:
                raise FeatureError(f"Another process is writing to {self}: wait for it.")
            self._seen[name] = checksum([data])
        if not self._made:  # on S3 it asks whether there is a bucket
            again(self._system.makedirs, self._root, exist_ok=True)
            self._made = True
        again(self._system.pipe_file, self._at(name), data)

    @guarded("{} cannot be written")
    def create(self, name: str, *pieces: bytes | memoryview) -> None:
        """Write a file that is not there yet.

        Raises:
            FeatureError: If it is there with other bytes: another process has written it.
        """
        data = b"".join(pieces)
        try:
            again(self._create, self._at(name), data)
        except FileExistsError:
            # A write may succeed though its answer is lost, and be refused when it is made again.
            if again(self._system.cat_file, self._at(name)) != data:
                raise FeatureError(f"Another process is writing to {self}: wait for it.") from None

    def _create(self, path: str, data: bytes) -> None:
        self._system.invalidate_cache()
        if self._refuses:
            try:
                self._system.pipe_file(path, data, mode="create")
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                # What S3 calls a failed condition, and what stores that know of none answer.
                if not self._system.exists(path) and error.errno == errno.EINVAL:
                    raise
                self._refuses = error.errno == errno.EINVAL
        if self._system.exists(path):
            raise FileExistsError(path)
        self._system.pipe_file(path, data)

    @guarded("{} cannot be read")
    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Return the bytes of a file, or None; refuse one of more than `most` bytes."""
        self._system.invalidate_cache()
        try:
            if most is not None:
                self._check_size(name, again(self._system.size, self._at(name)), most)
            data = again(self._system.cat_file, self._at(name))
        except FileNotFoundError:
            data = None
        self._seen[name] = None if data is None else checksum([data])
        return data

    def stamp(self, name: str) -> Any:
        """Return None: it is unknown. Fetched files are compared with their checksums."""
        return None

    @guarded("it cannot be listed")
    def sizes(self) -> dict[str, int]:
        """Return the size of every file, by name, from one listing."""
        self._system.invalidate_cache()
        try:
            found = again(self._system.ls, self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {f["name"].rsplit("/", 1)[-1]: f["size"] for f in found if f["type"] == "file"}

    @guarded("{} cannot be deleted")
    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            again(self._system.rm_file, self._at(name))
        if name in self._seen:  # if it is there again, another process wrote it
            self._seen[name] = None

    @guarded("{} cannot be read")
    def piece(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file, fetched again."""
        return again(self._system.cat_file, self._at(name), start=start, end=start + length)

    @guarded("{} cannot be read")
    def checksum(self, name: str) -> str:
        """Return the checksum of a file, fetched again in pieces."""

        def found() -> str:
            with self._system.open(self._at(name), "rb", block_size=1 << 22) as file:
                return checksum(iter(lambda: file.read(1 << 22), b""))

        return again(found)

    @guarded("{} cannot be fetched")
    def open(self, name: str, known: str, size: int = 0) -> Parts:
        """Fetch a file once, and open it. To fetch single rows would take a request for each.

        Raises:
            FeatureError: If its checksum is not the known one.
        """

        def fetch(path: Path) -> None:
            again(self._system.get_file, self._at(name), str(path))
            if Folder(path.parent).checksum(path.name) != known:
                raise FeatureError(
                    f"{self}: the checksum of {name!r} does not match what was written. "
                    f"kg.features.FeatureStore({str(self)!r}).verify() names all such shards."
                )

        with self._lock:
            while True:
                # With the checksum: a store that was replaced has shards of the same names.
                path = self.cache.file(f"{known}-{name}", size, fetch)
                with contextlib.suppress(FileNotFoundError):  # another process needed the room
                    return Parts(path)

    def lock(self) -> Any:
        """Return an empty context: object stores have no locks, see `write`."""
        return contextlib.nullcontext()
