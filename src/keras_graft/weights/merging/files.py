"""Write merged weights as they are made: `.safetensors` from nothing, Keras's files as a copy of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_graft.errors import WeightsError
from keras_graft.printable import shown, words_of
from keras_graft.weights.from_files import NUMBERED
from keras_graft.weights.merging.sources import Entry, Source, dtype_of

Blocks = Callable[[Entry], Iterable[tuple[slice, np.ndarray]]]
"""Returns the merged values of a weight: rows, and their values, in its own dtype."""

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

_WEIGHTS = "model.weights.h5"


def check_out(out: Path, first: Source) -> None:
    """Refuse a file that cannot be written from these sources.

    Raises:
        WeightsError: If so; the message says which can.
    """
    verb = f"merge_checkpoints: out={shown(str(out))}"
    if not out.name.endswith((".safetensors", ".weights.h5", ".keras")):
        raise WeightsError(f"{verb} does not end in .keras, .weights.h5 or .safetensors.")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise WeightsError(f"{verb}: there is no such folder, or it is one. Make the folder first.")
    if first.path is None or out.name.endswith(".safetensors"):
        return
    same = ".keras" if first.path.name.endswith(".keras") else ".weights.h5"
    if first.kind != "h5" or not (
        out.name.endswith(".weights.h5") or first.path.name.endswith(".keras")
    ):
        can = ".safetensors" if first.kind != "h5" else f"{same} or .safetensors"
        raise WeightsError(
            f"{verb}: a file {first.label} has no model in it from which that could be made. Write "
            f"{can}, or give models instead of files."
        )


def write(out: Path, first: Source, blocks: Blocks) -> None:
    """Write all weights to a file; one that is there is replaced when all is written.

    Raises:
        WeightsError: If it cannot be written.
    """
    suffix = next(s for s in (".safetensors", ".weights.h5", ".keras") if out.name.endswith(s))
    try:
        with _beside(out, suffix) as made:
            if suffix == ".safetensors":
                _safetensors(made, first, blocks)
            elif suffix == ".keras":
                _keras(made, first, blocks)
            else:
                _plain_h5(made, first, blocks)
            os.chmod(made, 0o644)
            os.replace(made, out)
    except OSError as error:
        raise WeightsError(
            f"merge_checkpoints: {str(out)!r} cannot be written: {words_of(error)}"
        ) from error


@contextlib.contextmanager
def _beside(out: Path, suffix: str) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=out.absolute().parent, suffix=suffix)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _safetensors(path: Path, first: Source, blocks: Blocks) -> None:
    said = {"format": first.group.format or "keras"}
    groups = list(first.group.walk())
    if any(group.keyed for group in groups):
        named = all(group.named for group in groups)
        said[NUMBERED] = "with names of layers" if named else "alone"
    header: dict[str, object] = {"__metadata__": said}
    at = 0
    # Files are laid out by the sizes of their dtypes: each tensor begins at a multiple of its own.
    entries = sorted(first.entries.values(), key=lambda e: (-dtype_of(e.dtype).itemsize, e.address))
    for entry in entries:
        header[entry.address] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at := at + entry.bytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for _, values in blocks(entry):
                file.write(np.ascontiguousarray(values).tobytes())


def _plain_h5(path: Path, first: Source, blocks: Blocks) -> None:
    assert first.path is not None
    if first.path.name.endswith(".keras"):
        with (
            zipfile.ZipFile(first.path) as zipped,
            zipped.open(_WEIGHTS) as data,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(data, file)
    else:
        shutil.copyfile(first.path, path)
    _fill(path, first, blocks)


def _keras(path: Path, first: Source, blocks: Blocks) -> None:
    assert first.path is not None
    with _beside(path, ".weights.h5") as weights:
        _plain_h5(weights, first, blocks)
        with zipfile.ZipFile(first.path) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                if info.filename == _WEIGHTS:
                    new.write(weights, _WEIGHTS, zipfile.ZIP_STORED)
                    continue
                with old.open(info) as data, new.open(info, "w") as file:
                    shutil.copyfileobj(data, file)


def _fill(path: Path, first: Source, blocks: Blocks) -> None:
    """Put the merged values in the place of those that a copy of the first file has."""
    import h5py

    with h5py.File(path, "r+") as file:
        for key, entry in first.entries.items():
            data = file[key]
            for rows, values in blocks(entry):
                if entry.dtype == "bfloat16":
                    values = np.ascontiguousarray(values).view("V2")
                if data.ndim == 0:  # type: ignore[union-attr]
                    data[()] = values  # type: ignore[index]
                else:
                    data[rows] = values  # type: ignore[index]
