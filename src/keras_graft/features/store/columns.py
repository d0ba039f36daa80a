"""Turn a batch into the columns of a store: features, targets, weights and keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from ml_dtypes import finfo

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, no_numbers
from keras_graft.features.store.checksum import digests
from keras_graft.features.store.column import DTYPES, INPUTS, LABELS, Column, is_feature
from keras_graft.features.store.manifest import packed
from keras_graft.features.store.schema import encodable
from keras_graft.features.store.shards import dtype_of

_WIDER = {"float16": '"bfloat16" or "float32"', "bfloat16": '"float32"', "float32": "None"}
"""Which dtypes to take if numbers are too large for one."""


@dataclass(frozen=True)
class Columns:
    """How batches become columns.

    Attributes:
        dtype: The dtype in which floating features are stored; None: their own.
        targets: Whether targets and sample weights are kept.
        keys: One key for each sample, and whether they are texts.
        views: How many augmented views of each sample there are. Outputs of the trunk are then a
            list: the plain ones, and those of each view.
        by_content: Whether digests are kept: stores of earlier versions have none.
    """

    dtype: str | None
    targets: bool
    keys: tuple[np.ndarray, bool] | None
    views: int = 0
    by_content: bool = True

    def keyed(self, stream: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches with their keys, which are in the order of the data.

        Raises:
            FeatureError: If there are fewer keys than samples.
        """
        start = 0
        for batch in stream:
            if self.keys is not None:
                own = self.keys[0][start : start + len(batch)]
                if len(own) != len(batch):
                    raise FeatureError(f"There are more samples than the {len(self.keys[0])} keys.")
                batch = replace(batch, k=own)
            start += len(batch)
            yield batch

    def of(self, outputs: Any) -> tuple[dict[str, str], dict[str, Any]]:
        """Return how features are nested, and their columns, before they are cast."""
        if outputs is None:
            return {}, {}
        plain, *views = outputs if self.views else [outputs]
        kind, columns = packed("features", plain)
        layout = {"features": kind, **({"views": "dict"} if views else {})}
        for number, view in enumerate(views, 1):
            columns.update(packed(f"views/{number}", view)[1])
        return layout, columns

    def labels(self, batch: Batch) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the same for targets, weights and keys, sorted by name."""
        layout: dict[str, str] = {}
        columns: dict[str, Any] = {}
        parts = {"targets": batch.y, "weights": batch.w} if self.targets else {}
        for kind, part in parts.items():
            if part is not None:
                layout[kind], found = packed(kind, part)
                columns.update(found)
        if batch.k is not None:
            layout["keys"], columns["keys/"] = "one", batch.k
        return layout, {name: columns[name] for name in sorted(columns)}

    def digests(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return what the store knows the samples by: digests of their inputs and labels."""
        if not self.by_content:
            return {}
        labels = list(self.labels(batch)[1].values())
        none = np.zeros(len(batch), np.uint64)
        return {INPUTS: digests(batch.x), LABELS: digests(labels) if labels else none}

    def check(self, batch: Batch) -> None:
        """Refuse targets, sample weights or keys that a store cannot hold, before the trunk runs."""
        self.described(self.labels(batch)[1])

    def cast(self, name: str, array: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Return features in the dtype of the store, and why rows overflow it."""
        floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        if self.dtype is None or not floating or array.dtype.name == self.dtype:
            return array, {}
        cast, limit = _cast(array, self.dtype), float(finfo(dtype_of(self.dtype)).max)
        if -limit <= array.min(initial=0) and array.max(initial=0) <= limit:  # false for a nan
            return cast, {}
        over = (np.isfinite(array) & ~np.isfinite(cast)).reshape(len(array), -1)
        lost: dict[int, str] = {}
        for row in np.flatnonzero(over.any(1)).tolist():
            top = np.abs(array[row][np.isfinite(array[row])]).max()
            lost[row] = (
                f"{name.removesuffix('/')} is up to {top:g}, but {self.dtype} ends at {limit:g}: "
                f"use dtype={_WIDER[self.dtype]}"
            )
        return cast, lost

    def described(self, columns: Mapping[str, Any]) -> dict[str, Column]:
        """Return the shape and dtype of the stored columns, from some rows of each."""
        found = {}
        for name, array in columns.items():
            rows = np.asarray(array)[:1]
            if is_feature(name):
                rows, _ = self.cast(name, rows)
            kind = rows.dtype.name
            if kind not in DTYPES:
                what = name.removesuffix("/").replace("weights", "sample weights", 1)
                raise no_numbers(what, kind, rows.dtype.kind in "SUT")
            text = name == "keys/" and self.keys is not None and self.keys[1]
            found[name] = Column(tuple(rows.shape[1:]), kind, text)
        return found


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers in another floating dtype, rounded as NumPy rounds them.

    The backend casts float32: NumPy takes ten times as long where numbers are too small for
    float16. The numbers are in the memory of the host, so it casts there.
    """
    if array.dtype != np.float32:  # backends may round twice
        with np.errstate(over="ignore"):
            return array.astype(dtype_of(dtype))
    try:
        host: Any = keras.device("cpu")
    except RuntimeError:  # JAX_PLATFORMS=cuda hides it from JAX
        host = contextlib.nullcontext()
    with host:  # `cast` alone would have NumPy cast an array on JAX
        tensor = keras.ops.convert_to_tensor(array)
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, dtype)))


def coded(keys: Iterable[Any] | None) -> tuple[np.ndarray, bool] | None:
    """Return keys as an array, and whether they are texts.

    Raises:
        FeatureError: If they are not all integers, or all texts.
    """
    if keys is None:
        return None
    given: Any = keys if hasattr(keys, "dtype") else list(keys)
    array = np.asarray(given)
    if array.dtype.hasobject:
        array = np.asarray(given := array.tolist())
    if array.ndim == 1 and len(array) and array.dtype.kind in "iu":
        return array, False
    texts: list[Any] = [
        k.encode() if isinstance(k, str) and encodable(k) else k for k in given
    ] if array.ndim == 1 else []  # fmt: skip
    if not texts or not all(isinstance(text, bytes) and _readable(text) for text in texts):
        raise FeatureError(
            "keys must be a list of integers (of at most 64 bits) or of texts, one for each sample; "
            f"got {type(keys).__name__} of {array.dtype.name} and shape {array.shape}."
        )
    cut = next((i for i, text in enumerate(texts) if text.endswith(b"\0")), None)
    if cut is not None:  # it fills up shorter texts
        raise FeatureError(
            f"Key {cut}, {texts[cut].decode()!r}, ends with a NUL character, which a store does "
            "not keep: remove it."
        )
    width = max(1, *map(len, texts))
    return np.frombuffer(b"".join(t.ljust(width, b"\0") for t in texts), np.uint8).reshape(
        len(texts), width
    ), True


def _readable(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
