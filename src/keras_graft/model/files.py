"""Load, check and save model files for the command line, with plain error messages."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft.errors import FileError
from keras_graft.graph.names import nearest
from keras_graft.model import archive, hdf5
from keras_graft.model.saving import save as save
from keras_graft.model.saving import settle
from keras_graft.model.structure import architecture, structure
from keras_graft.printable import printable, words_of

_SAFE_MODE = (
    "Load it in Python, if you trust it, with keras.saving.load_model(path, safe_mode=False), and "
    "use keras_graft there."
)


def load(
    source: str, input_shape: tuple[int, ...] | None = None, *, weights: bool = True,
    unsafe: bool = False,
) -> Any:  # fmt: skip
    """Return the model of a `.keras` or `.h5` file, or of `app:NAME` with fresh weights.

    Files are loaded in Keras's safe mode, and not compiled.

    Args:
        source: The file, or `app:NAME`.
        input_shape: For `app:NAME`, the shape of its input without the batch.
        weights: Whether values of weights are needed. If not, they are neither read nor made.
        unsafe: Whether Python code in the file may run.

    Raises:
        FileError: If there is no such file or architecture, or if it cannot be loaded.
    """
    if source.startswith("app:"):
        return _application(source.removeprefix("app:"), input_shape, weights)
    path = Path(source)
    if input_shape is not None:
        raise FileError("--input-shape is for app:NAME; a file has its own shapes.")
    if "://" in source:
        raise _elsewhere(source)
    settle(path.parent)
    if not path.is_file():
        if path.is_dir():
            raise FileError(f"{source!r} is a folder, not a file.")
        raise FileError(f"There is no file {source!r}. For an architecture write app:ResNet50.")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        hint = " Steps come before the model." if path.suffix in (".yaml", ".yml", ".json") else ""
        raise FileError(f"{source!r} is neither a .keras nor an .h5 file.{hint}")
    size = path.stat().st_size
    try:
        if not weights:
            return structure(path, unsafe)
        check(path)
        with _keras.weights_up_to(hdf5.allowance(size)):
            return keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
    except FileError:
        raise
    except _keras.TooLargeError as error:
        raise FileError(
            f"{source!r} is damaged or forged: it has {size:,} bytes, and {words_of(error)}."
        ) from error
    except Exception as error:
        raise FileError(f"{source!r} cannot be loaded: {_plain(error)}") from error


def _elsewhere(source: str) -> FileError:
    """Return the error for an address: how to get the file first."""
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        owner, _, rest = rest.partition("/")
        name, _, _ = rest.partition("/")
        repository = f"{owner}/{name}" if name else owner
        return FileError(
            f"{source!r} is on Hugging Face, and nothing is downloaded here. Download it first, "
            f"hf download {printable(repository)} --local-dir {printable(name or 'model')} (from pip "
            "install huggingface_hub), and give the .keras or .h5 file in that folder."
        )
    name = rest.partition("?")[0].rpartition("/")[2] or "model.keras"
    get = f"curl -L -o {printable(name)} {printable(source)}"
    if scheme not in ("http", "https"):
        get = "with the program for such addresses"
    return FileError(
        f"{source!r} is an address, and nothing is downloaded here. Download it first, {get}, and "
        f"give the file: {printable(name)}."
    )


def check(path: Path) -> None:
    """Refuse a file that is damaged, refers to other files, or unpacks to far more than its size.

    Raises:
        FileError: If the file is refused.
    """
    if path.suffix != ".keras":
        with hdf5.opened(path, path.name, path.stat().st_size):
            return
    if not zipfile.is_zipfile(path):
        raise FileError(
            f"{path.name!r} is not a readable .keras file: truncated, empty, or not a zip."
        )
    with archive.opened(path):
        return


def _plain(error: Exception) -> str:
    text = str(error)
    if "python lambda" in text.lower() or "safe_mode" in text:
        return "it holds Python code (a Lambda), which safe mode does not run. " + advice.way(
            "safe mode", _SAFE_MODE
        )
    if "Could not locate" in text:
        at = text.index("Could not locate")
        return f"{text[at:].split('.')[0]}: it needs code of its own. " + advice.way(
            "own code", "Import that code in Python, and use keras_graft there."
        )
    if isinstance(error, zipfile.BadZipFile | OSError | json.JSONDecodeError | KeyError):
        return f"the file is damaged ({type(error).__name__}: {_first_line(text)})"
    return _first_line(text)


def _first_line(text: str) -> str:
    lines = [line for line in text.strip("'\" \n").splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason given"


def _application(name: str, input_shape: tuple[int, ...] | None, weights: bool) -> Any:
    names = {
        key: make
        for key, make in vars(keras.applications).items()
        if callable(make) and not key.startswith("_")
    }
    if name not in names:
        near = nearest(name, names)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise FileError(f"keras.applications has no {name!r}.{hint}")
    shape = {} if input_shape is None else {"input_shape": input_shape}
    try:

        def make() -> Any:
            return names[name](weights=None, **shape)

        return make() if weights else architecture(make)
    except Exception as error:
        raise FileError(f"app:{name} cannot be built: {_first_line(str(error))}") from error


def check_free(paths: Mapping[str, Path], force: bool) -> None:
    """Check that files can be written, before anything is computed.

    Raises:
        FileError: If a file exists and `force` is not set, if it has no folder, or if it is not a
            `.keras` file. If a file that a dead process began to write cannot be finished.
    """
    for path in paths.values():
        settle(path.parent)
        if path.suffix != ".keras":
            raise FileError(f"{str(path)!r}: models are written as .keras files.")
        if path.parent.exists() and not path.parent.is_dir():
            raise FileError(f"{str(path.parent)!r} is a file, not a folder to write into.")
        if path.is_dir():
            raise FileError(f"{str(path)!r} is a folder; a model is written as one file.")
        if not (path.parent.is_dir() or path.parent.parent.is_dir()):
            raise FileError(f"There is no folder {str(path.parent.parent)!r} to write into.")
        if path.exists() and not force:
            raise FileError(f"{str(path)!r} already exists; --force overwrites it.")


def check_page(path: Path, force: bool) -> None:
    """Check that a page can be written, before anything is computed.

    Raises:
        FileError: If it exists and `force` is not set, if it has no folder, or if it is not HTML.
    """
    if path.suffix != ".html":
        raise FileError(f"{str(path)!r}: reports are written as .html files.")
    if not path.parent.is_dir():
        raise FileError(f"There is no folder {str(path.parent)!r} to write into.")
    if path.is_dir() or (path.exists() and not force):
        raise FileError(f"{str(path)!r} already exists; --force overwrites it.")
