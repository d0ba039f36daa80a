"""Export a store to the files of another library."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.exporting import parquet, webdataset
from keras_graft.features.exporting.fields import Field, blocks, fields_of
from keras_graft.features.head.several import open_store
from keras_graft.features.store.failures import said
from keras_graft.features.store.store import FeatureStore
from keras_graft.printable import shown
from keras_graft.tables import Table, Tabular, counted, in_bytes

_FORMATS = {"webdataset": webdataset, "parquet": parquet}
_BESIDE = ".part"
_ABOUT = "_columns.json"
"""Readers of Parquet leave out files whose names begin with an underscore."""


@dataclass(frozen=True, repr=False)
class Exported(Tabular):
    """What an export wrote; prints as a table.

    Attributes:
        path: The folder.
        format: `"webdataset"` or `"parquet"`.
        samples: How many samples there are.
        files: The names of the files, in the order of the samples.
        bytes: The size of all of them.
        fields: What each sample consists of: `name` in the export, `column` in the store, `shape`,
            `dtype`.
    """

    path: str
    format: str
    samples: int
    files: tuple[str, ...]
    bytes: int
    fields: tuple[Field, ...]

    def tables(self) -> list[Table]:
        """Return what was written, as a table."""
        title = (
            f"{self.path}: {counted(self.samples, 'sample')} in {counted(len(self.files), 'file')}, "
            f"{in_bytes(self.bytes)}, {self.format}"
        )
        rows = [(field.name, field.column.rstrip("/"), str(field)) for field in self.fields]
        return [(title, ("field", "column", "one sample"), rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data, ready for JSON."""
        columns = {
            f.name: {"column": f.column, "shape": list(f.shape), "dtype": "text" if f.text else f.dtype}
            for f in self.fields
        }  # fmt: skip
        return {
            "path": self.path, "format": self.format, "samples": self.samples, "bytes": self.bytes,
            "files": list(self.files), "fields": columns,
        }  # fmt: skip


def export(
    store: FeatureStore | str | os.PathLike[str],
    path: str | os.PathLike[str],
    format: str = "webdataset",
    *,
    shard_bytes: int = 256 << 20,
) -> Exported:
    """Write a store as files that other libraries read, a few MiB at a time.

    Each sample has the fields `x`, `y` (targets), `w` (sample weights), `key`, and `view1`, ... (augmented
    views), as far as the store has them. Of a dict or list each array is a field of its own: `x_pool`, `y_0`.
    In names all but letters, digits, `_` and `-` is written as in URLs: `x_block%2fpool`. bfloat16
    becomes float32. The samples are in the order of the store; those that were left out are not in it.

    Args:
        store: A `FeatureStore`, its path, or its URL.
        path: A new folder. It appears when all is written; until then its name ends with `.part`.
        format: `"webdataset"`: tar files with a `.npy` file for each field, named by the number of the
            sample, and keys that are texts as `.txt`. `"parquet"`: a row for each sample, which Lance,
            Ray, Spark and pandas read; it needs pyarrow.
        shard_bytes: The approximate size of a file.

    Returns:
        What was written. The same is in the folder, as `_columns.json`.

    Raises:
        FeatureError: If the store is not complete or is damaged, if there is something at `path`, or
            if it cannot be written. Then nothing is left at `path`.

    >>> import keras, numpy as np, keras_graft as kg, tempfile
    >>> trunk = kg.freeze(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = np.ones((10, 4), "float32"), np.arange(10)
    ...     store = kg.features.compute(trunk, data, f"{folder}/store", progress=False)
    ...     made = kg.features.export(store, f"{folder}/tars")
    >>> made.files, [field.name for field in made.fields]
    (('features-00000.tar',), ['x', 'y'])
    """
    if not isinstance(format, str) or format not in _FORMATS:
        raise FeatureError(f'format must be "webdataset" or "parquet", got {shown(format)}.')
    if not isinstance(shard_bytes, Integral) or not 1 <= shard_bytes < 1 << 62:
        raise FeatureError(
            f"shard_bytes must be a whole number, 1 or more, got {shown(shard_bytes)}."
        )
    target = _new(path)
    opened, writer = open_store(store), _FORMATS[format]
    fields, samples = fields_of(opened.manifest), len(opened)
    writer.check(fields)
    step = max(1, int(shard_bytes) // writer.sample_bytes(fields))
    starts = range(0, samples, step)
    digits = max(5, len(str(len(starts))))
    sizes = {}
    with _appearing(target) as beside:
        for number, start in enumerate(starts):
            file = beside / f"features-{number:0{digits}}{writer.SUFFIX}"
            own = blocks(opened, fields, start, min(start + step, samples))
            writer.write(file, fields, samples, own)
            sizes[file.name] = file.stat().st_size
        made = Exported(
            str(target), format, samples, tuple(sizes), sum(sizes.values()), tuple(fields)
        )
        about = made.to_dict() | {
            "trunk": opened.manifest.trunk,
            "versions": opened.manifest.versions,
        }
        del about["path"]
        (beside / _ABOUT).write_text(json.dumps(about, indent=1))
    return made


def _new(path: Any) -> Path:
    """Return the path of the folder; refuse one at which there is something."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or "://" in text:
        raise FeatureError(
            f"An export is a new local folder, given as its path, got {shown(path)}: give one, "
            "and copy the folder from there."
        )
    target = Path(os.path.expanduser(text))
    if os.path.lexists(target):
        raise FeatureError(f"{target} exists: give another path, or delete it.")
    return target


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give a folder beside the target, which takes its name when all is written."""
    beside = target.with_name(target.name + _BESIDE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
    except FileExistsError:
        raise FeatureError(
            f"{beside} exists: another export is writing it, or one was killed: then delete it."
        ) from None
    except OSError as error:
        raise _unwritten(beside, error) from error
    try:
        yield beside
        if os.path.lexists(target):
            raise FeatureError(f"{target} exists: another process has made it meanwhile.")
        beside.rename(target)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritten(target, error) from error
        raise


def _unwritten(path: Path, error: OSError) -> FeatureError:
    return FeatureError(
        f"{path} cannot be written: {said(error)}. Nothing is left of it: make room, or give "
        "another path."
    )
