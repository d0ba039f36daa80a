"""A local folder in which fetched shards are kept, up to a size."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{16}-shard-[0-9a-f]{5,32}\.[a-z]+")


class Cache:
    """Files by name, the least recently used of which make room for others.

    Several processes may use the same folder. A file that is deleted while it is open can be read on.

    Args:
        path: The folder; None: a temporary one, which ends with this object.
        most: The most bytes; None: half of what is free on that disk when the first file is kept.
    """

    def __init__(self, path: Path | None = None, most: int | None = None) -> None:
        self._path, self._most = path, most
        self._kept: tempfile.TemporaryDirectory[str] | None = None
        self._sizes: dict[str, int] = {}
        self.fetched = self.evicted = 0

    @property
    def most(self) -> int | None:
        """The most bytes, if that is known."""
        return self._most

    def _folder(self) -> Path:
        if self._path is None:
            self._kept = tempfile.TemporaryDirectory(prefix="keras-graft-")
            self._path = Path(self._kept.name)
        if not self._sizes:
            self._path.mkdir(parents=True, exist_ok=True)
            there = [p for p in self._path.iterdir() if _NAME.fullmatch(p.name)]
            there.sort(key=lambda p: p.stat().st_mtime_ns)
            self._sizes = {p.name: p.stat().st_size for p in there}
        if self._most is None:
            self._most = shutil.disk_usage(self._path).free // 2 + sum(self._sizes.values())
        return self._path

    def file(self, name: str, size: int, fetch: Callable[[Path], None]) -> Path:
        """Return the path of a file.

        Args:
            name: Its name, with its checksum: a file of this name is this file.
            size: Its size.
            fetch: Writes it to a path, if it is not there.
        """
        path = self._folder() / name
        if path.exists():
            self._sizes[name] = self._sizes.pop(name, size)  # the most recently used
            return path
        self._make_room(size)
        beside = path.with_suffix(f".{uuid.uuid4().hex}.part")  # other processes may fetch it too
        try:
            fetch(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        self._sizes.pop(name, None)
        self._sizes[name] = size
        self.fetched += size
        return path

    def _make_room(self, size: int) -> None:
        assert self._path is not None and self._most is not None
        total = sum(self._sizes.values()) + size
        for name in list(self._sizes):
            if total <= self._most:
                break
            (self._path / name).unlink(missing_ok=True)
            own = self._sizes.pop(name)
            total -= own
            self.evicted += own
