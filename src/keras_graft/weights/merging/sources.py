"""The checkpoints that are merged: models, and files whose weights are read some rows at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FileError, WeightsError
from keras_graft.model import archive, hdf5
from keras_graft.printable import shown, words_of
from keras_graft.weights.address import Group, groups
from keras_graft.weights.from_files import _root, found_on_disk, safetensors_groups
from keras_graft.weights.transplant import target_groups

_LAYOUT = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "bool",
}  # fmt: skip


@dataclass(eq=False)
class Entry:
    """One weight of a checkpoint.

    Attributes:
        key: What it has in common with the same weight of another checkpoint of this kind.
        address: Its address.
        shape: Its shape.
        dtype: Its dtype, as Keras names it.
        rows: Returns some rows of it; all of a weight without axes.
        variable: The variable of a model.
    """

    key: str
    address: str
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[slice], np.ndarray] = field(repr=False)
    variable: Any = None

    @property
    def bytes(self) -> int:
        """How many bytes its values have."""
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize

    @property
    def is_float(self) -> bool:
        """Whether its values are merged; all others are copied."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")


@dataclass(eq=False)
class Source:
    """A checkpoint.

    Attributes:
        label: What reports call it.
        kind: "model", "h5" or "safetensors".
        entries: Its weights by their keys.
        group: Its weights as groups.
        model: The model, if it is one.
        path: The file, if it is one.
    """

    label: str
    kind: str
    entries: dict[str, Entry]
    group: Group
    model: Any = None
    path: Path | None = None


def dtype_of(name: str) -> np.dtype:
    """Return the dtype of NumPy that has this name in Keras."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@contextlib.contextmanager
def opened(given: Any, verb: str) -> Iterator[Source]:
    """Yield a checkpoint.

    Raises:
        WeightsError: If it is neither a model nor a file of weights that can be read.
    """
    if not isinstance(given, str | os.PathLike):
        group = target_groups(given, verb, "source")
        yield _of_model(given, group)
        return
    path = Path(given)
    try:
        with contextlib.ExitStack() as stack:
            yield _of_file(path, stack, verb)
    except WeightsError as error:  # the functions that read files are those of `transplant`
        text = str(error)
        if text.startswith("transplant: "):
            raise WeightsError(f"{verb}: {text.removeprefix('transplant: ')}") from error
        raise
    except FileError as error:
        raise WeightsError(f"{verb}: {words_of(error)}") from error


def _of_model(model: Any, group: Group) -> Source:
    entries = {}
    for weight in group.weights():
        variable = weight.variable
        if weight.mode:
            raise WeightsError(
                f"merge_checkpoints: {weight.address!r} is quantized ({weight.mode}): its numbers cannot "
                "be averaged. Merge the models from before quantize()."
            )

        def rows(part: slice, variable: Any = variable) -> np.ndarray:
            array = np.asarray(keras.ops.convert_to_numpy(variable))
            return array if array.ndim == 0 else array[part]

        entries[weight.address] = Entry(
            weight.address, weight.address, weight.shape, weight.dtype, rows, variable
        )
    return Source(repr(model.name), "model", entries, group, model)


def _of_file(path: Path, stack: contextlib.ExitStack, verb: str) -> Source:
    found_on_disk(path)
    name = path.name
    if name.endswith(".safetensors"):
        group = stack.enter_context(safetensors_groups(path))
        entries = _tensors(path, stack, group)
        return Source(repr(name), "safetensors", entries, group, path=path)
    if name.endswith(".weights.h5"):
        file = stack.enter_context(hdf5.opened(path, name, path.stat().st_size))
    elif name.endswith(".keras"):
        file = stack.enter_context(stack.enter_context(archive.opened(path)).weights())
    else:
        raise WeightsError(
            f"{verb}: {shown(name)} is not a .keras, .weights.h5 or .safetensors file. Load it with its "
            "own library, and give the model."
        )
    group = _root(file, name)
    entries = {}
    for weight in group.weights():
        assert weight.path is not None
        data, half = file[weight.path], weight.dtype == "bfloat16"

        def rows(part: slice, data: Any = data, half: bool = half) -> np.ndarray:
            array = np.asarray(data[()] if data.ndim == 0 else data[part])
            return array.view(dtype_of("bfloat16")) if half else array

        entries[weight.path] = Entry(weight.path, weight.address, weight.shape, weight.dtype, rows)
    return Source(repr(name), "h5", entries, group, path=path)


def _tensors(path: Path, stack: contextlib.ExitStack, group: Group) -> dict[str, Entry]:
    """Return the tensors of a file, read at their places: a mapped file would stay in memory."""
    file = stack.enter_context(path.open("rb"))
    start = 8 + int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(start - 8))
    known = {weight.address: weight for weight in group.weights()}
    entries = {}
    for key, info in header.items():
        if key == "__metadata__" or key not in known:
            continue
        layout = _LAYOUT.get(info["dtype"])
        if layout is None:
            raise FileError(f"{path.name!r} holds {key!r} in {info['dtype']!r}, which is not read.")
        dtype = dtype_of("bfloat16") if layout == "bfloat16" else np.dtype(layout)
        shape, at = tuple(info["shape"]), start + info["data_offsets"][0]

        def rows(
            part: slice, shape: tuple[int, ...] = shape, at: int = at, dtype: np.dtype = dtype
        ) -> np.ndarray:
            first, last = (0, 1) if not shape else part.indices(shape[0])[:2]
            size = math.prod(shape[1:])
            file.seek(at + first * size * dtype.itemsize)
            array = np.empty((last - first) * size, dtype)
            if file.readinto(array.view("uint8").data) != array.nbytes:  # type: ignore[attr-defined]
                raise FileError(f"{path.name!r} is damaged: it ends too early.")
            return array.reshape(((last - first),) + shape[1:] if shape else ())

        entries[key] = Entry(key, key, shape, known[key].dtype, rows)
    return entries


__all__ = ["Entry", "Source", "dtype_of", "groups", "opened"]
