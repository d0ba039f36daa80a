"""The structure of a model file, without its weights: their values are neither read nor made."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import FileError
from keras_graft.model import hdf5
from keras_graft.printable import words_of

_CONFIG = "config.json"


def structure(path: Path, unsafe: bool = False) -> Any:
    """Return the model of a `.keras` or `.h5` file with weights that have shapes but no values.

    Questions about a network need no more. Of a `.keras` file only the configuration is read: the
    weights may be damaged or missing.

    Args:
        path: The file.
        unsafe: Whether Python code in the file may run.

    Raises:
        FileError: If the configuration is missing, damaged, or far larger than the file.
    """
    size = path.stat().st_size
    if path.suffix == ".keras":
        make, text = _keras.model_of_config, _zipped(path, size)
    else:
        make, text = _keras.model_of_legacy_config, _attribute(path)
    made = _built(lambda: make(text, safe_mode=not unsafe), size)
    if not isinstance(made, keras.Model):
        raise FileError(f"{path.name!r} is damaged: its configuration is not that of a model.")
    return made


def _zipped(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as zipped:
            if _CONFIG not in zipped.namelist():
                raise FileError(f"{path.name!r} is damaged: it has no {_CONFIG}.")
            if zipped.getinfo(_CONFIG).file_size > hdf5.allowance(size):
                raise FileError(
                    f"{path.name!r} has {size:,} bytes and says that its configuration has "
                    f"{zipped.getinfo(_CONFIG).file_size:,}, so it is not read."
                )
            text = zipped.read(_CONFIG).decode()
        json.loads(text)
    except FileError:
        raise
    except zipfile.BadZipFile as error:
        raise FileError(
            f"{path.name!r} is not a readable .keras file: truncated, empty, or not a zip."
        ) from error
    except Exception as error:  # from zipfile, zlib, json and what they call
        kind = type(error).__name__
        raise FileError(f"{path.name!r} is damaged ({kind}: {words_of(error)[:200]}).") from error
    return text


def _attribute(path: Path) -> str:
    """Return the configuration in a legacy file: one attribute, nothing else is read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = "model_config" in file.attrs
            if found and file.attrs.get_id("model_config").shape != ():
                raise ValueError("model_config is not one text")
            text = file.attrs.get("model_config")
            if text is not None:
                text = text.decode() if isinstance(text, bytes) else str(text)
                json.loads(text)
    except Exception as error:  # a damaged file makes h5py raise anything
        raise FileError(f"{path.name!r} is damaged: {words_of(error)[:300]}") from error
    if text is None:
        raise FileError(
            f"{path.name!r} holds weights, but no model: it has no model_config. Save the whole "
            "model, or load the weights into one with `transplant`."
        )
    return text


def _built(make: Any, size: int) -> Any:
    """Make a model without values; if a layer needs them while it is made, with fresh ones."""
    try:
        with _keras.without_values():
            return make()
    except Exception:
        with _keras.weights_up_to(hdf5.allowance(size)):
            return make()


def architecture(make: Any) -> Any:
    """Return what `make` returns, with weights that have no values.

    >>> import keras
    >>> model = architecture(lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    >>> model.count_params()
    15
    """
    with _keras.without_values():
        return make()
