"""Read a manifest. Anyone may have written it, so it is checked before it is used."""

from __future__ import annotations

import math
import re
from typing import Any

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.manifest import (
    COLUMN,
    DTYPES,
    FORMAT,
    INPUTS,
    LABELS,
    NAME,
    ORDERED,
    STORED,
    Column,
    Manifest,
    ShardEntry,
    is_label,
    itemsize,
)
from keras_graft.features.store.schema import (
    LONGEST,
    boolean,
    many,
    one_of,
    parse,
    record,
    table,
    text,
    whole,
)
from keras_graft.features.store.shards import SHARD
from keras_graft.printable import shown, words_of
from keras_graft.tables import counted

_SUM = text(r"([0-9a-f]{16})")
_LABEL = text(r"([ -~]{0,200})")
_SKIPPED = {
    ORDERED: record(index=whole(), reason=text()),
    FORMAT: record(index=whole(), reason=text(), inputs=_SUM),
}


def _skipped(value: Any, at: str) -> None:
    """A sample that was left out."""
    known = isinstance(value, dict) and "inputs" in value
    _SKIPPED[FORMAT if known else ORDERED](value, at)


_SCHEMA = record(
    columns=table(record(shape=many(whole(0, 2**40), 0, 31), dtype=one_of(frozenset(DTYPES)), text=boolean), COLUMN),
    layout=table(one_of(frozenset({"one", "dict", "list"})), rf"({'|'.join(STORED)})"),
    trunk=table(_LABEL), batch_size=whole(1), rows_per_shard=whole(1), versions=table(_LABEL),
    shards=many(record(
        file=text(f"({SHARD})"), rows=whole(), bytes=whole(), checksum=_SUM, inputs=many(_SUM),
        labels=many(_SUM), skipped=many(_skipped),
    )),
    complete=boolean, format=whole(ORDERED, FORMAT),
)  # fmt: skip
_ROW = 1 << 40
"""The largest size of a row, in bytes."""
_SIGNED = re.compile(rb'\{\n "checksum": "([0-9a-f]{16})",')


def load(folder: Folder) -> Manifest | None:
    """Return the manifest of a folder, or None if it has none.

    Raises:
        FeatureError: If it cannot be read, contradicts itself, or has another format.
    """
    data = folder.read(NAME, LONGEST)
    if data is None:
        return None
    try:
        raw = parse(data)
        version = raw.get("format") if isinstance(raw, dict) else None
        if type(version) is int and not ORDERED <= version <= FORMAT:
            raise FeatureError(
                f"{folder} is a store of format {version}, and this keras-graft reads {ORDERED} and {FORMAT}: "
                + (
                    "pip install -U keras-graft"
                    if version > FORMAT
                    else f"compute it again, {advice.option('resume', False)}"
                )
            )
        signed = _SIGNED.match(data)
        if signed is None or checksum([b"{", data[signed.end() :]]) != signed[1].decode():
            raise ValueError("its checksum does not match what was written")
        del raw["checksum"]
        _SCHEMA(raw, "")
        found = _made(raw)
        _check(found)
    except FeatureError:
        raise
    except ValueError as error:
        raise FeatureError(
            f"{folder}/{NAME} cannot be read ({words_of(error)}): it was not written by keras-graft, or the "
            "disk is damaged."
        ) from error
    return found


def written_here(data: bytes) -> bool:
    """Whether keras-graft wrote this manifest, which may be damaged or of another version."""
    if _SIGNED.match(data):
        return True
    try:
        raw = parse(data)
    except ValueError:
        return False
    return isinstance(raw, dict) and {"format", "columns", "shards"} <= raw.keys()


def _made(raw: dict[str, Any]) -> Manifest:
    columns = {
        k: Column(tuple(c["shape"]), c["dtype"], c["text"]) for k, c in raw["columns"].items()
    }
    return Manifest(
        **{**raw, "columns": columns, "shards": tuple(ShardEntry.of(s) for s in raw["shards"])}
    )


def _check(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself.

    Raises:
        ValueError: It says how.
    """
    columns = manifest.columns
    for name, column in columns.items():
        # Zeros do not make it harmless: NumPy multiplies the other sizes.
        large = itemsize(column.dtype) * math.prod(max(1, n) for n in column.shape) > _ROW
        coded = name == "keys/" and column.dtype == "uint8" and len(column.shape) == 1
        if large or (column.text and not coded):
            raise ValueError(f"columns[{shown(name)}] cannot be {shown(str(column))}")
    kinds = {name.partition("/")[0] for name in columns}
    if "features" not in kinds or kinds != manifest.layout.keys():
        raise ValueError(f"its layout is of {shown(', '.join(manifest.layout))}, but its columns are of "
                         f"{', '.join(sorted(kinds))}")  # fmt: skip
    for kind, layout in manifest.layout.items():
        own = {name.partition("/")[2] for name in columns if name.partition("/")[0] == kind}
        alone = {"one": {""}, "list": set(map(str, range(len(own)))), "dict": own}[layout]
        if own != alone or kind == "keys" and layout != "one":
            raise ValueError(f"the columns of its {kind} do not fit the layout {layout!r}")
    whole = {n.partition("/")[2]: c for n, c in columns.items() if n.startswith("features/")}
    for view in range(1, manifest.views + 1):
        start = f"views/{view}/"
        own = {n.removeprefix(start): c for n, c in columns.items() if n.startswith(start)}
        if own != whole:
            raise ValueError(f"its view {view} does not have the columns of its features")
    labels = sum(map(is_label, columns))
    digest = Column((), "uint64")
    if manifest.format == FORMAT and not columns.get(INPUTS) == columns.get(LABELS) == digest:
        raise ValueError(f"its format is {FORMAT}, but it lacks digests of its samples")
    if "digests" in kinds and (manifest.format != FORMAT or manifest.layout["digests"] != "dict"):
        raise ValueError("it has digests, but its format or layout is of a store without them")
    width, start, files = sum(c.bytes for c in columns.values()), 0, set()
    for number, shard in enumerate(manifest.shards):
        skipped = [sample.index for sample in shard.skipped]
        end = start + shard.samples
        if shard.file in files:
            wrong = f"has the file of another shard, {shard.file}"
        elif len(shard.labels) != labels or not shard.inputs:
            wrong = f"has {len(shard.labels)} labels for {labels} columns of them"
        elif not shard.rows * width + 8 <= shard.bytes or shard.rows and not width:
            wrong = f"has {counted(shard.bytes, 'byte')}, which does not fit {counted(shard.rows, 'row')} of {width:,}"
        elif any(b <= a for a, b in zip([start - 1, *skipped], [*skipped, end], strict=True)):
            wrong = f"leaves out samples that are not among its own, {start} to {end - 1}"
        elif any(bool(sample.inputs) != manifest.by_content for sample in shard.skipped):
            wrong = "has samples that were left out with digests, and some without"
        else:
            files.add(shard.file)
            start = end
            continue
        raise ValueError(f"shards[{number}] {wrong}")
