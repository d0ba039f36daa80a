"""Weights in files: `.keras`, `.weights.h5`, `.safetensors`, as places with addresses."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft.addresses import Addresses, Place, Weight, places
from keras_graft.errors import WeightsError
from keras_graft.files import FileError, load
from keras_graft.printable import words_of

_FROZEN = {"layer", "keras_graft_inside"}
"""The attributes of a Frozen by which Keras comes to the layer inside."""

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@contextlib.contextmanager
def stored(path: Path) -> Iterator[tuple[Place, str]]:
    """Give the places of a file, and what is to be said of it.

    Raises:
        WeightsError: If it is no file of a kind that is known, or damaged.
    """
    name = path.name
    if path.is_dir():
        raise WeightsError(
            f"transplant: {str(path)!r} is a directory, not a file of weights. Give one file in it, "
            "or load it with its own library, and give the model."
        )
    if not path.is_file():
        raise WeightsError(f"transplant: there is no file {str(path)!r}.")
    if name.endswith((".weights.json", ".safetensors.index.json")):
        raise WeightsError(
            f"transplant: {name!r} is the index of weights in several files. Load them into a model "
            "of their architecture, with load_weights() or their own library, and give that."
        )
    if name.endswith(".safetensors"):
        with _safetensors(path) as place:
            yield place, repr(name)
    elif name.endswith(".weights.h5"):
        with _opened(path, path) as place:
            yield place, repr(name)
    elif name.endswith(".keras"):
        try:
            model = load(str(path))
        except FileError as error:
            # Its code is not there, or Keras cannot load what it wrote: the weights are, by names.
            with _archive(path, error) as place:
                yield place, f"{name!r}, read without its model"
        else:
            yield places(model), repr(name)
    else:
        raise WeightsError(
            f"transplant: {name!r} is none of .keras, .weights.h5, .safetensors. A file of another "
            "kind: load it with its own library, and give the model."
        )


@contextlib.contextmanager
def _archive(path: Path, error: Exception) -> Iterator[Place]:
    try:
        with zipfile.ZipFile(path) as archive:
            data = io.BytesIO(archive.read("model.weights.h5"))
    except Exception:
        raise WeightsError(f"transplant: {words_of(error)}") from error
    with _opened(data, path) as place:
        yield place


@contextlib.contextmanager
def _opened(source: Any, path: Path) -> Iterator[Place]:
    import h5py

    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise WeightsError(f"transplant: {path.name!r} is damaged: {words_of(error)}") from error
    with file:
        yield _group(file, "", (), Addresses())[0]


def _group(group: Any, path: str, names: tuple[str, ...], addresses: Addresses) -> list[Place]:
    """Return the place of a group of an h5 file; of a mere container, those inside."""
    import h5py

    own = group.get("vars", {})
    name = str(getattr(own, "attrs", {}).get("name", ""))
    named = bool(name) or not own
    label = name or (path.rsplit("/", 1)[-1] if own else "")
    if path == "optimizer":  # of a model that was compiled
        return []
    if path and label:
        names = (*names, label)
    weights = [
        _weight(own, key, f"{path}/vars/{key}".lstrip("/"), names, addresses)
        for key in sorted(own, key=_natural)
    ]
    inside = []
    for key in sorted(set(group) - {"vars"}, key=_natural):
        if isinstance(group.get(key, getlink=True), h5py.HardLink) and isinstance(
            group[key], h5py.Group
        ):
            inside += _group(group[key], f"{path}/{key}".lstrip("/"), names, addresses)
    if path and not label:
        return inside
    if not weights and [p.name for p in inside] == [name] and set(group) & _FROZEN:
        return inside
    place = Place(label, None, None, True, named, weights, inside)
    return [place] if weights or inside or not path else []


def _weight(own: Any, key: str, path: str, names: tuple[str, ...], addresses: Addresses) -> Weight:
    data = own[key]
    dtype = str(data.attrs.get("dtype", data.dtype))

    def read() -> np.ndarray:
        if dtype == "bfloat16":
            import ml_dtypes

            return np.array(data).view(ml_dtypes.bfloat16)
        return np.array(data)

    return Weight(addresses.take(names, key), key, tuple(data.shape), dtype, read, path=path)


def _natural(key: str) -> list[Any]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", key)]


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Place]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise WeightsError(
            f"transplant: {path.name!r} is read with safetensors, which is an extra: pip install "
            "'keras-graft[features]'"
        ) from error
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise WeightsError(f"transplant: {path.name!r} is damaged: {words_of(error)}") from error
    with file:
        root = Place("")
        for key in sorted(file.keys(), key=_natural):
            parts = key.split("/" if "/" in key else ".")
            place = root
            for part in parts[:-1]:
                inner = next((p for p in place.inside if p.name == part), None)
                if inner is None:
                    inner = Place(part)
                    place.inside.append(inner)
                place = inner
            info = file.get_slice(key)
            shape, dtype = tuple(info.get_shape()), _DTYPES.get(info.get_dtype(), "unknown")
            place.own.append(
                Weight(key, parts[-1], shape, dtype, lambda key=key: np.array(file.get_tensor(key)))
            )
        yield root
