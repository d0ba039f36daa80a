"""Save models to `.keras` files, for the command line: all or none, and never half a file.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed. One
rename is atomic, several are not. Several files in one folder therefore get a journal first, which
lists the renames. From then on they count as written: if the process is killed between two renames,
the next process that reads or writes in the folder does the rest. Files that dead processes left
without a journal are removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_graft import _keras
from keras_graft.errors import FileError, GraftError
from keras_graft.printable import words_of

_OWN = re.compile(r"\.keras-graft-([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{8}\.(keras|journal|part)")
"""Names that only this module gives: the machine, the process, and a random number."""


def save(models: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Save all models or none. A missing folder is created.

    An existing file keeps its mode; a new file gets the user's default mode (umask).

    Raises:
        FileError: If a file cannot be written; the message names it.
    """
    made: dict[Path, Path] = {}
    try:
        for key, path in paths.items():
            with _naming(path):
                path.parent.mkdir(exist_ok=True)
                settle(path.parent)
                temporary = _own(path.parent, "keras")
                # Private until it is complete and gets its mode.
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                made[path] = temporary
                _keras.save(models[key], temporary)
                temporary.chmod(_mode(path))
                _to_disk(temporary)
        _rename(made)
    finally:
        for temporary in made.values():  # after a success none of them exists
            temporary.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Finish the writes that dead processes began in a folder, and remove the files they left.

    Raises:
        FileError: If a file cannot be renamed. Old and new files are then mixed.
    """
    try:
        names = [name for name in os.listdir(folder or ".") if _OWN.fullmatch(name)]
    except OSError:
        return  # no folder, or not readable
    left = [name for name in names if _dead(name)]
    for name in sorted(left, key=lambda name: not name.endswith(".journal")):
        if name.endswith(".journal"):
            _finish(folder / name)
    for name in left:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def _rename(made: dict[Path, Path]) -> None:
    """Rename files. In one folder, the next process finishes the renames if this one dies."""
    folders = {path.parent for path in made}
    if len(made) == 1 or len(folders) > 1:
        for path, temporary in made.items():
            with _naming(path):
                os.replace(temporary, path)
    else:
        (folder,) = folders
        journal = _own(folder, "journal")
        part = journal.with_suffix(".part")
        with _naming(journal):
            part.write_text(json.dumps({old.name: new.name for new, old in made.items()}))
            _to_disk(part)
            os.replace(part, journal)
            _names_to_disk(folder)
        made.clear()  # `save` must not delete them: the journal needs them
        _finish(journal)
    for folder in folders:
        _names_to_disk(folder)


def _finish(journal: Path) -> None:
    """Do the renames in a journal, and remove it. It is not trusted: names only, no paths."""
    pairs: dict[str, str] = {}
    try:
        pairs = json.loads(journal.read_text())
        fine = isinstance(pairs, dict) and all(
            _OWN.fullmatch(old) and isinstance(new, str) and re.fullmatch(r"[^/\\\0]+\.keras", new)
            for old, new in pairs.items()
        )
    except (OSError, ValueError, RecursionError):
        fine = False
    if not fine:
        return
    for old, new in pairs.items():
        with _naming(journal.parent / new), contextlib.suppress(FileNotFoundError):
            os.replace(journal.parent / old, journal.parent / new)
    _names_to_disk(journal.parent)
    with _naming(journal):
        journal.unlink()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise a FileError that names the file: the error of a full disk does not."""
    try:
        yield
    except GraftError:
        raise
    except Exception as error:  # h5py raises its own errors
        raise FileError(f"{str(path)!r} cannot be written: {words_of(error)}") from error


def _own(folder: Path, kind: str) -> Path:
    number = secrets.token_hex(4)
    return folder / f".keras-graft-{_machine()}-{os.getpid()}-{number}.{kind}"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _dead(name: str) -> bool:
    """Whether the process that wrote a file has ended; False if it ran on another machine."""
    match = _OWN.fullmatch(name)
    if match is None or match[1] != _machine() or os.name == "nt":
        return False
    try:
        os.kill(int(match[2]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _mode(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _to_disk(path: Path) -> None:
    """Flush a file to the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _names_to_disk(folder: Path) -> None:
    """Flush the file names in a folder to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
