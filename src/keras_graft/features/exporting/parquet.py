"""Parquet, which Ray, Lance, Spark and pandas read: a row for each sample.

A vector is a list of a fixed length. An array of more axes is Arrow's "fixed shape tensor": readers that
do not know it see a list of all its numbers (https://arrow.apache.org/docs/format/CanonicalExtensions.html).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.exporting.fields import Block, Field

SUFFIX = ".parquet"


def check(fields: list[Field]) -> None:
    """Refuse to write where pyarrow is missing, or a field that it cannot hold."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise FeatureError(
            f"Parquet is written with pyarrow: pip install pyarrow, or use {advice.option('format', 'webdataset')}."
        ) from None
    empty = next((f for f in fields if 0 in f.shape), None)
    if empty is not None:
        raise FeatureError(
            f"The column {empty.column!r} has the shape {empty.shape}, so it holds no number, which Parquet "
            f"cannot keep: use {advice.option('format', 'webdataset')}."
        )


def sample_bytes(fields: list[Field]) -> int:
    """Return about how many bytes one sample takes in a file."""
    return max(1, sum(field.bytes for field in fields))


def write(path: Path, fields: list[Field], samples: int, blocks: Iterable[Block]) -> None:
    """Write one file.

    Args:
        path: The file, which does not exist yet.
        fields: What each sample consists of.
        samples: How many samples there are in all files.
        blocks: The samples of this file, each of which becomes a row group.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {field.name: _type(pa, field) for field in fields}
    about = {"keras_graft": json.dumps({field.name: field.column for field in fields})}
    schema = pa.schema([pa.field(*item) for item in types.items()], metadata=about)
    # Numbers of features are all different: nothing is gained by a dictionary of them.
    with open(path, "xb") as file:
        with pq.ParquetWriter(
            file, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            for _, rows in blocks:
                columns = [_array(pa, types[f.name], rows[f.name], f) for f in fields]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _type(pa: Any, field: Field) -> Any:
    if field.text:
        return pa.string()
    number = pa.from_numpy_dtype(np.dtype(field.dtype))
    if len(field.shape) < 2:
        return pa.list_(number, field.shape[0]) if field.shape else number
    return pa.fixed_shape_tensor(number, field.shape)


def _array(pa: Any, kind: Any, rows: np.ndarray, field: Field) -> Any:
    if field.text:
        return pa.array(rows.tolist(), kind)
    flat = pa.array(rows.reshape(-1))
    if not field.shape:
        return flat
    lists = pa.FixedSizeListArray.from_arrays(flat, math.prod(field.shape))
    return lists if len(field.shape) == 1 else pa.ExtensionArray.from_storage(kind, lists)
