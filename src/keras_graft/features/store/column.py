"""The columns of a store: their kinds, names, dtypes and shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

KINDS = ("features", "targets", "weights", "keys")
"""The kinds of columns that users see."""
INPUTS, LABELS = "digests/inputs", "digests/labels"
"""Columns that a store knows its samples by: hashes of inputs, and of targets, weights and keys."""
STORED = (*KINDS, "views", "digests")
"""All kinds of columns. Views are features with augmentation on."""
COLUMN = rf"({'|'.join(STORED)})/(?s:.*)"
"""The names of columns, as a regular expression."""
DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
    "bfloat16", "float32", "float64",
)  # fmt: skip
"""The dtypes that a store holds."""


def is_feature(name: str) -> bool:
    """Whether a column holds what the trunk gives."""
    return name.startswith(("features/", "views/"))


def is_label(name: str) -> bool:
    """Whether a column holds what came with the inputs: targets, sample weights or keys."""
    return name.startswith(("targets/", "weights/", "keys/"))


def itemsize(dtype: str) -> int:
    """Return the bytes that a number takes."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


@dataclass(frozen=True)
class Column:
    """One array of rows.

    Attributes:
        shape: The shape of one row.
        dtype: The dtype in the shards.
        text: Whether it is UTF-8 text, padded with zeros.
    """

    shape: tuple[int, ...]
    dtype: str
    text: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return itemsize(self.dtype) * math.prod(self.shape)

    def __str__(self) -> str:
        return f"({', '.join(map(str, ('?', *self.shape)))}) {'text' if self.text else self.dtype}"
