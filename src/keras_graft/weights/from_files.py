"""Read weights from `.keras`, `.weights.h5` and `.safetensors` files, as groups with addresses."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft import _keras
from keras_graft.errors import FileError, WeightsError
from keras_graft.model import archive, hdf5
from keras_graft.model.files import load
from keras_graft.printable import shown, words_of
from keras_graft.weights.adapters import without_adapters
from keras_graft.weights.address import Addresses, Group, Weight, groups

_FROZEN = {"layer", "keras_graft_inside"}
"""The attributes of a Frozen through which Keras finds the layer inside."""

_DEPTH = 100
"""The most parts that the name of a tensor may have."""

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def found_on_disk(path: Path) -> None:
    """Refuse a path at which no ordinary file can be read.

    Raises:
        WeightsError: If the file is missing, a directory or a device.
    """
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:  # also a name that no file can have
        raise WeightsError(
            f"transplant: there is no file {shown(str(path))}, or it cannot be read: "
            f"{getattr(error, 'strerror', None) or words_of(error)}."
        ) from error
    if stat.S_ISDIR(kind):
        raise WeightsError(
            f"transplant: {str(path)!r} is a directory, not a file of weights. Give one file in it, "
            "or load it with its own library, and give the model."
        )
    if not stat.S_ISREG(kind):
        raise WeightsError(f"transplant: {str(path)!r} is not a regular file.")


@contextlib.contextmanager
def stored(path: Path) -> Iterator[tuple[Group, str]]:
    """Yield the outermost group of a file, and what reports call the file.

    Raises:
        WeightsError: If the file is missing, of an unknown kind, or damaged.
    """
    found_on_disk(path)
    name = path.name
    if name.endswith((".weights.json", ".safetensors.index.json")):
        raise WeightsError(
            f"transplant: {name!r} is the index of weights in several files. With PyTorch's names, "
            "give names='torch'; otherwise load them into a model of their architecture, with "
            "load_weights() or their own library, and give the model."
        )
    if not name.endswith((".keras", ".weights.h5", ".safetensors")):
        raise WeightsError(
            f"transplant: {name!r} is not a .keras, .weights.h5 or .safetensors file. For PyTorch's "
            ".pth, .pt and .bin give names='torch'. Load a file of another kind with its own library, "
            "and give the model."
        )
    with contextlib.ExitStack() as stack:
        try:
            if name.endswith(".safetensors"):
                found = stack.enter_context(safetensors_groups(path)), repr(name)
            elif name.endswith(".weights.h5"):
                file = stack.enter_context(hdf5.opened(path, name, path.stat().st_size))
                found = _root(file, name), repr(name)
            else:
                found = _keras_file(path, stack)
        except FileError as error:
            raise WeightsError(f"transplant: {words_of(error)}") from error
        yield found


def _keras_file(path: Path, stack: contextlib.ExitStack) -> tuple[Group, str]:
    try:
        return without_adapters(groups(load(str(path)))), repr(path.name)
    except FileError as error:
        if isinstance(error.__cause__, _keras.TooLargeError):
            raise
        # The model's code is missing, or Keras cannot load its own file: read the weights by name.
        opened = stack.enter_context(archive.opened(path))
        root = _root(stack.enter_context(opened.weights()), path.name)
        return root, f"{path.name!r}, read without its model"


def _root(file: Any, name: str) -> Group:
    try:
        return _group(file, "", (), Addresses(), name)[0]
    except FileError:
        raise
    except Exception as error:  # h5py raises many kinds of errors for damage
        raise FileError(f"{name!r} is damaged: {words_of(error)}") from error


def _group(
    group: Any, path: str, names: tuple[str, ...], addresses: Addresses, file: str
) -> list[Group]:
    """Return the `Group` of a group in an h5 file; for a mere container, the groups inside."""
    import h5py

    own = group.get("vars", {})
    if own and not isinstance(own, h5py.Group):
        raise FileError(f"{file!r} is damaged: {path + '/vars'!r} is not a group.")
    name = _text(getattr(own, "attrs", {}).get("name"))
    named = bool(name) or not own
    label = name or (path.rsplit("/", 1)[-1] if own else "")
    if path == "optimizer":  # a compiled model has one
        return []
    if path and label:
        names = (*names, label)
    weights = [
        _weight(own, key, f"{path}/vars/{key}".lstrip("/"), names, addresses, file)
        for key in sorted(own, key=natural)
    ]
    inside = []
    for key in sorted(set(group) - {"vars"}, key=natural):
        if isinstance(group[key], h5py.Group):
            inside += _group(group[key], f"{path}/{key}".lstrip("/"), names, addresses, file)
    if path and not label:
        return inside
    if not weights and [p.name for p in inside] == [name] and set(group) & _FROZEN:
        return inside
    made = Group(label, None, None, True, named, weights, inside)
    return [made] if weights or inside or not path else []


def _text(name: Any) -> str:
    """Return a name from a file, "" if it is not a text."""
    if not isinstance(name, str):
        return ""
    return name.encode(errors="replace").decode()


def _weight(
    own: Any, key: str, path: str, names: tuple[str, ...], addresses: Addresses, file: str
) -> Weight:
    import h5py

    data = own[key]
    if not isinstance(data, h5py.Dataset):
        raise FileError(f"{file!r} is damaged: {path!r} is not a dataset.")
    half = data.attrs.get("dtype") == "bfloat16" and data.dtype.str == "|V2"
    dtype = "bfloat16" if half else data.dtype.name

    def read() -> np.ndarray:
        array = np.array(data)
        if half:
            import ml_dtypes

            return array.view(ml_dtypes.bfloat16)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    shape = tuple(data.shape)
    read = _checked(read, shape, dtype, f"{path!r} of {file!r}")
    return Weight(addresses.take(names, key), key, shape, dtype, read, path=path)


def _checked(
    read: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: str, what: str
) -> Callable[[], np.ndarray]:
    """Return a reader that checks shape and dtype, and names the weight in its errors."""

    def checked() -> np.ndarray:
        try:
            array = read()
        except Exception as error:
            raise WeightsError(f"transplant: {what} cannot be read: {words_of(error)}") from error
        if (array.shape, array.dtype.name) != (shape, dtype):
            raise WeightsError(
                f"transplant: {what} is damaged: it announces {dtype} {shape}, but holds "
                f"{array.dtype} {array.shape}."
            )
        return array

    return checked


def natural(key: str) -> list[Any]:
    """Return a sort key that orders names by the numbers in them, of any number of digits."""
    parts = [(p, p.lstrip("0")) for p in re.split(r"([0-9]+)", key)]
    return [
        (0, len(short), short, p) if p.isascii() and p.isdigit() else (1, 0, "", p)
        for p, short in parts
    ]


NUMBERED = "weights are numbered"
"""What a `.safetensors` file says that was made from a Keras file, where weights have no names."""


@contextlib.contextmanager
def safetensors_groups(path: Path) -> Iterator[Group]:
    """Yield the tensors of a `.safetensors` file as groups, by the parts of their names.

    Raises:
        FileError: If the file is damaged.
        WeightsError: If safetensors is not installed.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise WeightsError(
            f"transplant: {path.name!r} is read with safetensors, which is an extra: pip install "
            "'keras-graft[features]'"
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(path, framework="numpy"))
            root = _by_paths(file, path.name)
        except FileError:
            raise
        except Exception as error:  # SafetensorError, and errors from damaged names and shapes
            raise FileError(f"{path.name!r} is damaged: {words_of(error)}") from error
        yield root


def _by_paths(file: Any, name: str) -> Group:
    said = file.metadata() or {}
    root = Group("", format=said.get("format"))
    known = {(): root}
    for key in sorted(file.keys(), key=natural):
        parts = tuple(key.split("/" if "/" in key else "."))
        if len(parts) > _DEPTH:
            raise FileError(f"{name!r} is damaged or forged: {key[:60]!r} has {len(parts)} parts.")
        for n in range(1, len(parts)):
            if parts[:n] not in known:
                made = known[parts[:n]] = Group(parts[n - 1])
                made.keyed, made.named = NUMBERED in said, said.get(NUMBERED) != "alone"
                known[parts[: n - 1]].inside.append(made)
        info = file.get_slice(key)
        shape, dtype = tuple(info.get_shape()), _DTYPES.get(info.get_dtype(), "unknown")
        read = _checked(
            lambda key=key: np.array(file.get_tensor(key)), shape, dtype, f"{key!r} of {name!r}"
        )
        known[parts[:-1]].own.append(Weight(key, parts[-1], shape, dtype, read))
    return root
