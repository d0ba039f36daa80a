"""WebDataset: tar files in which the members of a sample stand together.

All members of a sample have its number as their name, up to the first dot; what follows says which
array it is (https://github.com/webdataset/webdataset). An array is a file of NumPy.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.exporting.fields import Block, Field
from keras_graft.printable import shown

SUFFIX = ".tar"
_BLOCK = 512
"""A tar file consists of blocks of so many bytes: one for the head of a member, then its data."""
_HEAD = 128
"""The bytes of the head of most files of NumPy."""


def check(fields: list[Field]) -> None:
    """Refuse names that differ in nothing but case: WebDataset writes all in lower case."""
    known: dict[str, Field] = {}
    for field in fields:
        other = known.setdefault(field.name.lower(), field)
        if other is not field:
            raise FeatureError(
                f"The columns {shown(other.column)} and {shown(field.column)} differ only in upper and lower "
                f"case, which WebDataset does not tell apart: use {advice.option('format', 'parquet')}."
            )


def sample_bytes(fields: list[Field]) -> int:
    """Return about how many bytes one sample takes in a file."""
    return sum(_BLOCK + -(-(_HEAD + field.bytes) // _BLOCK) * _BLOCK for field in fields)


def write(path: Path, fields: list[Field], samples: int, blocks: Iterable[Block]) -> None:
    """Write one file.

    Args:
        path: The file, which does not exist yet.
        fields: What each sample consists of.
        samples: How many samples there are in all files: so all names have the same length.
        blocks: The samples of this file.
    """
    digits = max(9, len(str(samples)))
    heads = {field.name: _head(field) for field in fields}
    with open(path, "xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for first, rows in blocks:
                _add(tar, fields, heads, first, digits, rows)
                tar.members.clear()  # type: ignore[attr-defined] # it would keep a record of each
        file.flush()
        os.fsync(file.fileno())


def _add(
    tar: tarfile.TarFile, fields: list[Field], heads: dict[str, bytes], first: int, digits: int,
    rows: dict[str, np.ndarray],
) -> None:  # fmt: skip
    for i in range(len(rows[fields[0].name])):
        for field in fields:
            row = rows[field.name][i]
            data = str(row).encode() if field.text else heads[field.name] + row.tobytes()
            suffix = "txt" if field.text else "npy"
            info = tarfile.TarInfo(f"{first + i:0{digits}}.{field.name}.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _head(field: Field) -> bytes:
    """Return the head of a file of NumPy."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(field.dtype)),
            "fortran_order": False,
            "shape": field.shape,
        },
    )
    return head.getvalue()
