"""Read named tensors as PyTorch writes them: a state dict, `.safetensors`, `.pth`, `.bin`, an index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FileError, WeightsError
from keras_graft.graph.names import listed
from keras_graft.model.hdf5 import allowance
from keras_graft.printable import shown, words_of
from keras_graft.weights.from_files import found_on_disk, natural, safetensors_groups

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
"""The suffixes of files that `torch.load` reads."""
_INDEX = (".safetensors.index.json", ".bin.index.json")
_INNER = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the state dict within a checkpoint."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a source.

    Attributes:
        name: Its full name, `"layer1.0.conv1.weight"`.
        shape: Its shape.
        dtype: Its dtype, as Keras names it.
        read: Returns its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = field(repr=False)

    @property
    def is_float(self) -> bool:
        """Whether it may be a weight: PyTorch's integers are counters and tables."""
        return self.dtype.startswith(("float", "bfloat")) or self.dtype == "unknown"

    @cached_property
    def digest(self) -> bytes | None:
        """A checksum of its values; None for a vector, and if all values are equal."""
        if len(self.shape) < 2:
            return None
        values = np.ascontiguousarray(self.read())
        data = values.reshape(-1).view("uint8").reshape(values.size, -1)
        if not values.size or (data == data[0]).all():
            return None
        return hashlib.blake2b(data.data, digest_size=16).digest()


@dataclass(frozen=True)
class State:
    """All tensors of a source.

    Attributes:
        label: What reports call it.
        tensors: The tensors, in the order of the source.
        ordered: Whether that order is the one in which the modules were made. `.safetensors` files
            are written in the order of names, and so are dicts that were read from them.
    """

    label: str
    tensors: tuple[Tensor, ...]
    ordered: bool


@contextlib.contextmanager
def state_of(source: Any) -> Iterator[State]:
    """Yield the tensors of a file, a state dict or a PyTorch module.

    Raises:
        WeightsError: If the source is something else, or a file that is missing or damaged.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        found_on_disk(path)
        with contextlib.ExitStack() as stack:
            try:
                tensors, ordered = _read(path, stack)
            except FileError as error:
                raise WeightsError(f"transplant: {words_of(error)}") from error
            known = ordered and not _sorted(tensors)
            yield State(repr(path.name), _unique(tensors, path.name), known)
        return
    label = "the state dict"
    if not isinstance(source, Mapping):
        source, label = _state_dict(source), repr(type(source).__name__)
    if not isinstance(source, Mapping):
        raise WeightsError(
            "transplant: with names='torch' the source must be the path of a file, a state dict or "
            f"a PyTorch module, got {label}. Without names= a Keras model is a source."
        )
    tensors = _tensors(source, label)
    yield State(label, tuple(tensors), not _sorted(tensors))


def _state_dict(source: Any) -> Any:
    """Return the state dict of a PyTorch module; anything else as it is."""
    # On the PyTorch backend a Keras layer is a module too, with names of Keras.
    if isinstance(source, keras.Layer | type) or not callable(getattr(source, "state_dict", None)):
        return source
    try:
        return source.state_dict()
    except Exception as error:
        raise WeightsError(
            f"transplant: {type(source).__name__!r} gives no state dict: {words_of(error)}"
        ) from error


def _read(path: Path, stack: contextlib.ExitStack) -> tuple[list[Tensor], bool]:
    if path.name.endswith(_INDEX):
        return _sharded(path, stack)
    if path.name.endswith(".safetensors"):
        group = stack.enter_context(safetensors_groups(path))
        return [Tensor(w.address, w.shape, w.dtype, w.read) for w in group.weights()], False
    if path.name.endswith(PICKLED):
        return _tensors(_unpickled(path), repr(path.name)), True
    raise FileError(
        f"{path.name!r} is not a file of PyTorch weights: .safetensors, {', '.join(PICKLED)}, or the "
        "index of several, .safetensors.index.json. A file of Keras weights is read without "
        "names='torch'."
    )


def _sharded(path: Path, stack: contextlib.ExitStack) -> tuple[list[Tensor], bool]:
    """Read the files that an index names; they must lie beside it."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = dict.fromkeys(index.values())
        whole = all(isinstance(name, str) for name in (*index, *names))
    except Exception as error:  # not JSON, or not an index
        raise FileError(f"{path.name!r} is damaged: it has no weight_map of tensors.") from error
    if not whole:
        raise FileError(f"{path.name!r} is damaged: its weight_map has entries that are not text.")
    tensors: list[Tensor] = []
    orders = []
    for name in names:
        if Path(name).name != name or "\\" in name or name.endswith(_INDEX):
            raise FileError(f"{path.name!r} names {name!r}, which is not a file beside it.")
        part = path.with_name(name)
        found_on_disk(part)
        found, ordered = _read(part, stack)
        tensors += [tensor for tensor in found if index.get(tensor.name) == name]
        orders.append(ordered)
    gone = set(index) - {tensor.name for tensor in tensors}
    if gone:
        raise FileError(f"{path.name!r} names tensors that its files lack: {listed(sorted(gone))}.")
    place = {name: i for i, name in enumerate(index)}
    return sorted(tensors, key=lambda tensor: place[tensor.name]), all(orders) and len(orders) == 1


def _unpickled(path: Path) -> Any:
    """Return what `torch.load` finds in a file; it runs no code from it."""
    try:
        import torch
    except ImportError as error:
        raise FileError(
            f"{path.name!r} is read with PyTorch, which is not installed: pip install torch. Or "
            "write it as .safetensors where PyTorch is."
        ) from error
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                if sum(info.file_size for info in zipped.infolist()) > allowance(size):
                    raise FileError(f"{path.name!r} is forged: it would unpack to far more bytes.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # damage and forbidden code raise many kinds of errors
        raise FileError(
            f"{path.name!r} cannot be read as a file of tensors alone (torch.load with "
            f"weights_only=True): {words_of(error)[:300]}. If you trust it, load it with your own "
            "code, and give the state dict."
        ) from error


def _tensors(state: Any, label: str) -> list[Tensor]:
    for key in _INNER:
        inner = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(inner, Mapping):
            state = inner
    if not isinstance(state, Mapping):
        raise FileError(f"{label} holds a {type(state).__name__}, not a state dict.")
    return [_tensor(name, value, label) for name, value in state.items()]


def _tensor(name: Any, value: Any, label: str) -> Tensor:
    if not isinstance(name, str):
        raise WeightsError(f"transplant: {label} has the key {shown(name)}, which is no name.")
    if hasattr(value, "untyped_storage"):
        return _of_torch(name, value, label)
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise WeightsError(
            f"transplant: {name!r} of {label} is {type(value).__name__}, not a tensor. Give only the "
            "state dict."
        )
    try:
        array = np.asarray(keras.ops.convert_to_numpy(value))
    except Exception as error:
        raise WeightsError(
            f"transplant: {name!r} of {label} is not a tensor with values: {words_of(error)}"
        ) from error
    if array.dtype.kind not in "biufV" and array.dtype.name != "bfloat16":
        raise WeightsError(f"transplant: {name!r} of {label} holds {array.dtype}, not numbers.")
    return Tensor(name, tuple(array.shape), array.dtype.name, lambda: np.array(array))


def _of_torch(name: str, value: Any, label: str) -> Tensor:
    import torch

    plain = value.detach()
    if plain.layout != torch.strided or plain.is_quantized or plain.device.type == "meta":
        raise WeightsError(
            f"transplant: {name!r} of {label} is sparse, quantized or without values. Make it an "
            "ordinary tensor first."
        )
    if plain.numel() * plain.element_size() > plain.untyped_storage().nbytes():
        raise WeightsError(
            f"transplant: {name!r} of {label} announces {tuple(plain.shape)}, more than it holds."
        )
    dtype = str(plain.dtype).removeprefix("torch.")

    def read() -> np.ndarray:
        here = plain.cpu().contiguous()
        if dtype == "bfloat16":
            import ml_dtypes

            return np.array(here.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
        return np.array(here.numpy())

    return Tensor(name, tuple(plain.shape), dtype, read)


def _sorted(tensors: list[Tensor]) -> bool:
    """Whether tensors of each dtype are in the order of their names: as text, or by numbers."""
    rows: dict[str, list[str]] = {}
    for tensor in tensors:
        rows.setdefault(tensor.dtype, []).append(tensor.name)
    return any(
        all(names == sorted(names, key=key) for names in rows.values()) for key in (None, natural)
    )


def _unique(tensors: list[Tensor], file: str) -> tuple[Tensor, ...]:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise WeightsError(f"transplant: {file!r} is damaged: it has two tensors of one name.")
    return tuple(tensors)
