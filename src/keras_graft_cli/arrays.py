"""Arrays from files of NumPy."""

from __future__ import annotations

import os
from typing import Any

from keras_graft_cli.errors import UsageError


def arrays(path: str, names: tuple[str, ...] | None = ("x", "y", "w")) -> Any:
    """Return the array of a `.npy` file, or the arrays of a `.npz` file.

    Args:
        path: The file.
        names: The names that a `.npz` may have, the first of them must be there: returned as a
            tuple in this order. None: a dict of all.

    Raises:
        UsageError: If it cannot be read.
    """
    import zipfile
    import zlib

    import numpy as np

    from keras_graft.printable import words_of

    damaged = (
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, RecursionError,
        OverflowError, SyntaxError, TypeError, KeyError, NotImplementedError,
    )  # fmt: skip
    if not os.path.exists(path):
        raise UsageError(f"There is no file or folder {path!r}.")
    try:
        loaded = np.load(path, mmap_mode="r")
    except damaged as error:
        raise UsageError(
            f"{path!r} is not a readable .npy or .npz file: {words_of(error)}"
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    if names is not None and (names[0] not in loaded or set(loaded.files) - set(names)):
        raise UsageError(
            f"{path!r} holds {', '.join(loaded.files)}: name the inputs x, and targets and sample "
            "weights, if there are any, y and w."
        )
    try:
        if names is None:
            return {name: loaded[name] for name in loaded.files}
        return tuple(loaded.get(name) for name in names)
    except ValueError as error:
        raise UsageError(
            f"{path!r} holds Python objects, not numbers: {words_of(error)}"
        ) from error
    except damaged as error:
        raise UsageError(f"{path!r} cannot be read: {words_of(error)}") from error
