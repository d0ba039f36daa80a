"""The format of shards: safetensors files. No other file of the package knows of it.

A shard is 8 bytes of length, a JSON header of that length, and the columns, one after the other
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_graft.features.store.column import COLUMN, DTYPES, Column, itemsize
from keras_graft.features.store.schema import LONGEST, many, one_of, parse, record, table, whole
from keras_graft.printable import shown

_SUFFIX = ".safetensors"
SHARD = rf"shard-([0-9]{{5,10}}|[0-9a-f]{{32}}){re.escape(_SUFFIX)}"
"""The names of shards, as a regular expression."""
_CODES: dict[str, str] = dict(zip(DTYPES, (
    "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64",
), strict=True))  # fmt: skip
_HEADER = table(
    record(
        dtype=one_of(frozenset(_CODES.values())), shape=many(whole(), 1, 32),
        data_offsets=many(whole(), 2, 2),
    ),
    COLUMN,
)  # fmt: skip


def shard_name(number: int | str) -> str:
    """Return the name of a shard's file, from its number or from 32 hexadecimal digits."""
    return f"shard-{number:0>5}{_SUFFIX}"


def stem(name: str) -> str:
    """Return the digits in the name of a shard's file: the inverse of `shard_name`."""
    return name[len("shard-") : -len(_SUFFIX)]


def bfloat16() -> Any:
    """Return NumPy's bfloat16, which comes with every backend of Keras."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def dtype_of(name: str) -> Any:
    """Return the NumPy dtype of a standard name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def encode(columns: Mapping[str, Sequence[np.ndarray]]) -> list[memoryview]:
    """Return the bytes of a shard, in pieces; the rows of a column may come in several arrays.

    safetensors' own writer copies all data three times, which takes longer than writing it.
    """
    pieces: list[memoryview] = []
    header, place = {}, 0
    # The widest numbers first: so each column is aligned for readers that map the file.
    ordered = sorted(columns.items(), key=lambda item: (-item[1][0].dtype.itemsize, item[0]))
    for name, parts in ordered:
        for part in parts:
            pieces.append(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        end = place + sum(part.nbytes for part in parts)
        header[name] = {
            "dtype": _CODES[parts[0].dtype.name],
            "shape": [sum(map(len, parts)), *parts[0].shape[1:]],
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


def header(
    size: int, read: Callable[[int, int], bytes]
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return dtype, shape and first byte of each column of a shard.

    Args:
        size: The size of the file.
        read: Returns some bytes, given their start and number.

    Raises:
        ValueError: If it is not a shard, or does not fit the size of the file.
    """
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if not 0 < length <= min(size - 8, LONGEST):
        raise ValueError(f"its header would have {length:,} bytes, and the file has {size:,}")
    raw = parse(read(8, length))
    _HEADER(raw, "its header")
    dtypes = {value: name for name, value in _CODES.items()}
    found, places = {}, []
    for name, t in raw.items():
        dtype, shape = dtypes[t["dtype"]], tuple(t["shape"])
        start, end = t["data_offsets"]
        if end - start != itemsize(dtype) * math.prod(shape):
            raise ValueError(
                f"{shown(name)} is {dtype} of shape {shown(str(shape))}, but data_offsets do not "
                f"match: {t['data_offsets']}"
            )
        found[name] = dtype, shape, 8 + length + start
        places.append((start, end))
    edges = sorted(places)
    if [start for start, _ in edges] != [0, *(end for _, end in edges)][: len(edges)] or (
        8 + length + max((end for _, end in edges), default=0) != size
    ):  # fmt: skip
        raise ValueError(
            f"its columns do not lie one after the other, up to its end at byte {size:,}"
        )
    return found


def starts(
    size: int, read: Callable[[int, int], bytes], columns: Mapping[str, Column], rows: int
) -> dict[str, int]:
    """Return the first byte of each column of a shard.

    Args:
        size: The size of the file.
        read: Returns some bytes, given their start and number.
        columns: The columns that the manifest names.
        rows: The number of rows.

    Raises:
        ValueError: If it is not a shard, or does not hold these columns.
    """
    found = header(size, read)
    if found.keys() != columns.keys():
        raise ValueError(f"it holds {shown(', '.join(found))}, not {shown(', '.join(columns))}")
    for name, (dtype, shape, _) in found.items():
        told = columns[name].dtype, (rows, *columns[name].shape)
        if (dtype, shape) != told:
            raise ValueError(
                f"its {shown(name)} is {dtype} of shape {shape}, not {told[0]} of {told[1]}"
            )
    return {name: start for name, (_, _, start) in found.items()}
