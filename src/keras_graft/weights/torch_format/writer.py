"""Write named arrays as `.safetensors`, or with `torch.save`: first to a file beside, then in its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.printable import shown, words_of
from keras_graft.weights.torch_format.tensors import PICKLED


def check_path(path: Path) -> None:
    """Refuse a path that no file can be written to.

    Raises:
        WeightsError: If the suffix is unknown, or the folder is missing.
    """
    if not path.name.endswith((".safetensors", *PICKLED)):
        raise WeightsError(
            f"save_weights: {shown(path.name)} does not end in .safetensors or {', '.join(PICKLED)}. Keras's "
            "own formats are written by model.save() and model.save_weights()."
        )
    if _is_folder(path) or not _is_folder(path.absolute().parent):
        raise WeightsError(
            f"save_weights: {shown(str(path))} cannot be written: "
            + (
                "it is a directory."
                if _is_folder(path)
                else "there is no such folder. Make it first."
            )
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def write(path: Path, arrays: Mapping[str, np.ndarray], kind: str) -> None:
    """Write the arrays.

    Args:
        path: The file; one that is there is replaced when all is written.
        arrays: The arrays by name.
        kind: What the header says the format is, "pt" or "keras".

    Raises:
        WeightsError: If the package that writes it is missing, or the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.absolute().parent, suffix=path.suffix)
        os.close(handle)
        try:
            _write(name, arrays, kind, path.name)
            os.chmod(name, 0o666 & ~_mask())
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"save_weights: {str(path)!r} cannot be written: {words_of(error)}"
        ) from error


def _write(name: str, arrays: Mapping[str, np.ndarray], kind: str, file: str) -> None:
    try:
        if file.endswith(PICKLED):
            import torch

            torch.save({key: _tensor(array) for key, array in arrays.items()}, name)
        else:
            from safetensors.numpy import save_file

            save_file(dict(arrays), name, {"format": kind})
    except ImportError as error:
        package = "torch" if file.endswith(PICKLED) else "'keras-graft[features]'"
        raise WeightsError(
            f"save_weights: {file!r} needs a package that is not installed: pip install {package}"
        ) from error


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
