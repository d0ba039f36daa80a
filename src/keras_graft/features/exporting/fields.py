"""The columns of a store as other libraries see them: under which names, and as which numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_graft.features.store.column import itemsize
from keras_graft.features.store.manifest import Manifest, packed
from keras_graft.features.store.shards import dtype_of
from keras_graft.features.store.store import FeatureStore

_NAMES = {"features": "x", "targets": "y", "weights": "w", "keys": "key", "views": "view"}
_AT_ONCE = 8 << 20
"""Bytes of samples that are read and written at once."""

Block = tuple[int, dict[str, np.ndarray]]
"""The number of the first sample, and the rows of each field by its name."""


@dataclass(frozen=True)
class Field:
    """One array of each sample.

    Attributes:
        name: Its name in the export, such as `"x"`, `"x_pool"`, `"y"`, `"key"`, `"view1_pool"`.
        column: Its name in the store.
        shape: Its shape for one sample.
        dtype: Its dtype in the export. Nobody else reads bfloat16, so it becomes float32.
        text: Whether it is a text.
    """

    name: str
    column: str
    shape: tuple[int, ...]
    dtype: str
    text: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of one sample; of a text, at most."""
        return itemsize(self.dtype) * math.prod(self.shape)

    def __str__(self) -> str:
        return "text" if self.text else f"{self.shape} {self.dtype}"


def fields_of(manifest: Manifest) -> list[Field]:
    """Return what is exported of each sample: all that a store holds but its hashes."""
    found = []
    for column, known in manifest.columns.items():
        kind, _, rest = column.partition("/")
        if kind not in _NAMES:
            continue
        name = _NAMES[kind]
        if kind == "views":
            number, _, rest = rest.partition("/")
            name += number
        dtype = "float32" if known.dtype == "bfloat16" else known.dtype
        whole = f"{name}_{escaped(rest)}" if rest else name
        found.append(Field(whole, column, known.shape, dtype, known.text))
    return found


def escaped(name: str) -> str:
    """Return a name that is safe in files and tables; `urllib.parse.unquote` gives it back.

    >>> escaped("block/conv.1"), escaped("../é")
    ('block%2fconv%2e1', '%2e%2e%2f%c3%a9')
    """
    return re.sub(
        "[^A-Za-z0-9_-]", lambda found: "".join(f"%{byte:02x}" for byte in found[0].encode()), name
    )


def blocks(store: FeatureStore, fields: list[Field], start: int, stop: int) -> Iterator[Block]:
    """Yield some samples in their order, a few MiB at once."""
    step = max(1, _AT_ONCE // max(1, sum(field.bytes for field in fields)))
    for first in range(start, stop, step):
        columns = _columns(store, np.arange(first, min(first + step, stop)))
        yield (
            first,
            {
                f.name: columns[f.column]
                if f.text
                else np.ascontiguousarray(columns[f.column], dtype_of(f.dtype))
                for f in fields
            },
        )


def _columns(store: FeatureStore, samples: np.ndarray) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for kind, rows in store.take(samples).items():
        columns |= packed(kind, rows)[1]
    for view in range(1, store.views + 1):
        rows = store.take(samples, "features", views=view)["features"]
        columns |= packed(f"views/{view}", rows)[1]
    return columns
