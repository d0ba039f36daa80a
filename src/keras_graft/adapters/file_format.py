"""The format of a file of adapters: a safetensors file with JSON in its metadata.

Files may come from anywhere: all that is read is checked, and refused as a `FileError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.adapters.state import Adapter
from keras_graft.errors import EditError, FileError
from keras_graft.printable import shown, words_of

_FORMAT = "keras-graft adapters"
_VERSION = "1"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(name: Any, verb: str) -> None:
    """Refuse a name of an adapter that no variable can have on every backend."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise EditError(
            f"{verb}: the name of an adapter is up to 64 letters, digits, '_' and '-', got "
            f"{shown(name)}."
        )


def array_of(variable: Any) -> np.ndarray:
    """Return the values of a variable as a file holds them; bfloat16 as float32."""
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def checked_path(path: Any, verb: str) -> Path:
    """Return the path of a file of adapters, or refuse it."""
    if not isinstance(path, str | os.PathLike) or not str(path).endswith(".safetensors"):
        raise FileError(f"{verb}: a file of adapters ends in .safetensors, got {shown(path)}.")
    return Path(path)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise FileError(
            "Files of adapters need safetensors, which is an extra: pip install "
            "'keras-graft[features]'"
        ) from error
    return safetensors


def write(file: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write a file under another name, then rename it: no reader sees half a file.

    Args:
        file: The file.
        tensors: Its arrays, by name.
        about: What else it says.
    """
    said = {key: json.dumps(value) for key, value in about.items()}
    library = _safetensors()
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        library.numpy.save_file(
            tensors, part, metadata={"format": _FORMAT, "version": _VERSION, **said}
        )
        os.replace(part, file)
    except Exception as error:
        raise FileError(f"{str(file)!r} cannot be written: {words_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a file: give its arrays, and what else it says as JSON."""
    library = _safetensors()
    if not file.is_file():
        raise FileError(f"load_adapters: there is no file {str(file)!r}.")
    try:
        opened = library.safe_open(file, framework="numpy")
    except Exception as error:
        raise FileError(f"{file.name!r} is damaged: {words_of(error)}") from error
    with opened as tensors:
        about = tensors.metadata() or {}
        if about.get("format") != _FORMAT:
            raise FileError(f"{file.name!r} holds no adapters: kg.save_adapters did not write it.")
        if about.get("version") != _VERSION:
            raise FileError(
                f"{file.name!r} is of version {shown(about.get('version'))}, and this keras-graft "
                f"reads {_VERSION}. Update it."
            )
        yield tensors, about


def said(about: dict[str, str], key: str, kind: type, file: Path) -> Any:
    """Return what a file says about something: a list or a dict."""
    try:
        found = json.loads(about[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged(file, key) from error
    if not isinstance(found, kind):
        raise damaged(file, key)
    return found


def adapter_in(one: Any, file: Path) -> tuple[Adapter, int]:
    """Return an adapter that a file lists, and the place of its weight among those of the model.

    It has no variables, and its weight is named by an address.
    """
    try:
        name, rank, alpha, inputs = (one[key] for key in ("name", "rank", "alpha", "inputs"))
        right = (
            isinstance(rank, int)
            and isinstance(one["place"], int)
            and rank > 0
            and np.isfinite(alpha)
            and all(isinstance(axis, int) for axis in inputs)
        )
        check_name(name, "load_adapters")
        if right and isinstance(one["weight"], str):
            return Adapter(name, one["weight"], rank, float(alpha), tuple(inputs)), one["place"]
    except (KeyError, TypeError, EditError) as error:
        raise damaged(file, "the list of adapters") from error
    raise damaged(file, "the list of adapters")


def tensor_in(tensors: Any, key: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    """Return an array of a file, which must have this shape."""
    try:
        found = np.array(tensors.get_tensor(key))
    except Exception as error:  # SafetensorError: there is none
        raise damaged(file, key) from error
    if tuple(found.shape) != shape or found.dtype.kind not in "fiu":
        raise damaged(file, key)
    return found


def damaged(file: Path, what: str) -> FileError:
    """Return the error for a file in which something is missing or wrong."""
    return FileError(f"{file.name!r} is damaged: {shown(what)} is missing or wrong.")
