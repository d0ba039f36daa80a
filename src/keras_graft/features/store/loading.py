"""Read a manifest. Anyone may have written it, so it is checked before it is used."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.column import (
    COLUMN,
    DTYPES,
    INPUTS,
    LABELS,
    STORED,
    Column,
    is_label,
    itemsize,
)
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import SUM, extended, skipped
from keras_graft.features.store.manifest import (
    BEGIN,
    END,
    FORMAT,
    HEAD,
    LARGEST,
    NAME,
    ORDERED,
    Manifest,
)
from keras_graft.features.store.schema import (
    boolean,
    many,
    one_of,
    parse,
    record,
    table,
    text,
    whole,
)
from keras_graft.features.store.segments import read
from keras_graft.features.store.shards import SHARD
from keras_graft.printable import shown, words_of
from keras_graft.tables import counted

_LABEL = text(r"([ -~]{0,200})")
_SCHEMA = record(
    columns=table(record(shape=many(whole(0, 2**40), 0, 31), dtype=one_of(frozenset(DTYPES)), text=boolean), COLUMN),
    layout=table(one_of(frozenset({"one", "dict", "list"})), rf"({'|'.join(STORED)})"),
    trunk=table(_LABEL), batch_size=whole(1), rows_per_shard=whole(1), versions=table(_LABEL),
    shards=many(record(
        file=text(f"({SHARD})"), rows=whole(), bytes=whole(), checksum=SUM, inputs=many(SUM),
        labels=many(SUM), skipped=many(skipped),
    )),
    complete=boolean, format=whole(ORDERED, FORMAT),
)  # fmt: skip
_PART = 1 << 20
"""Bytes of a manifest that become texts at once."""
_TRIES = 20
"""How often a store is looked at that another process changes at this very moment."""
_ROW = 1 << 40
"""The largest size of a row, in bytes."""
_SIGNED = re.compile(rb'\{\n "checksum": "([0-9a-f]{16})",')


def load(folder: Folder) -> Manifest | None:
    """Return the manifest of a folder with the shards of its journal, or None if it has none.

    Raises:
        FeatureError: If it cannot be read, contradicts itself, or has another format.
    """
    for _ in range(_TRIES):
        data = folder.read(NAME, LARGEST)
        if data is None:
            return None
        with _said(folder):
            total, found = _parsed(folder, data)
            _check(found)
        if found.complete:  # what a killed writer left of a journal does not count
            return found
        shards = read(folder, total, found.shards)
        head = data[:HEAD]
        del data
        if shards is not None and folder.piece(NAME, 0, HEAD) == head:
            with _said(folder):
                found = found.replace(shards=shards)
                _check(found)
            return found
    raise FeatureError(
        f"{folder}: another process changes the store each time it is read: wait for it, or stop it."
    )


@contextlib.contextmanager
def _said(folder: Folder) -> Iterator[None]:
    """Turn what is wrong with a manifest into an error that names it."""
    try:
        yield
    except FeatureError:
        raise
    except ValueError as error:
        raise FeatureError(
            f"{folder}/{NAME} cannot be read ({words_of(error)}): it was not written by keras-graft, or the "
            "disk is damaged."
        ) from error


def _parsed(folder: Folder, data: bytes) -> tuple[str, Manifest]:
    """Return the checksum of a manifest, and what it says.

    Raises:
        ValueError: If it is damaged, or no manifest.
        FeatureError: If it has another format.
    """
    head, own = _apart(data)
    raw = parse(head)
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
    if signed is None or checksum([b"{", memoryview(data)[signed.end() :]]) != signed[1].decode():
        raise ValueError("its checksum does not match what was written")
    del raw["checksum"]
    _SCHEMA(raw, "")
    return signed[1].decode(), _made(raw, own)


def _apart(data: bytes) -> tuple[bytes, Shards | None]:
    """Return a manifest without its shards, and these, if each is a line as `line` writes it.

    Others are left in it, for the parser of JSON: that says what is wrong with one.
    """
    begin, end = f"{BEGIN}\n".encode(), f"{END},\n".encode()
    start = data.find(begin)
    stop = data.find(end, start)
    if min(start, stop) < 0:
        return data, None
    found, at = Shards(), start + len(begin)
    while at <= stop:  # in parts: as texts they take several times as much memory
        edge = data.find(b"\n", min(at + _PART, stop), stop)
        edge = stop if edge < 0 else edge
        part = data[at:edge]
        if not part.isascii():
            return data, None
        rows = part.decode().split("\n")
        if edge == stop:
            rows[-1] += ","
        if not all(row[:2] == "  " and row[-1:] == "," for row in rows):
            return data, None
        grown = extended(found, [row[2:-1] for row in rows])
        if grown is None:
            return data, None
        found, at = grown, edge + 1
    return data[:start] + f"{BEGIN}]".encode() + data[stop + len(END) :], found


def written_here(data: bytes) -> bool:
    """Whether keras-graft wrote this manifest, which may be damaged or of another version."""
    if _SIGNED.match(data):
        return True
    try:
        raw = parse(data)
    except ValueError:
        return False
    return isinstance(raw, dict) and {"format", "columns", "shards"} <= raw.keys()


def _made(raw: dict[str, Any], own: Shards | None) -> Manifest:
    columns = {
        k: Column(tuple(c["shape"]), c["dtype"], c["text"]) for k, c in raw["columns"].items()
    }
    shards = Shards(map(ShardEntry.of, raw["shards"])) if own is None else own
    return Manifest(**{**raw, "columns": columns, "shards": shards})


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
    _check_shards(manifest, labels)


def _check_shards(manifest: Manifest, labels: int) -> None:
    """Refuse a manifest whose shards do not fit together.

    Raises:
        ValueError: It names the first that is wrong.
    """
    shards, width = manifest.shards, sum(c.bytes for c in manifest.columns.values())
    own = shards.array
    if not len(own):
        return
    wrong = (own["bytes"] < 8) | ((own["bytes"] - 8) // max(1, width) < own["rows"])
    wrong |= (own["rows"] > 0) & (width == 0)
    if own["inputs"].shape[1] == 0 or own["labels"].shape[1] != labels:
        wrong[0] = True
    names = np.lexsort((own["low"], own["high"], own["digits"]))
    ordered = own[names]
    same = [ordered[part][1:] == ordered[part][:-1] for part in ("digits", "high", "low")]
    wrong[names[1:]] |= np.logical_and.reduce(same)  # a stable order: the later one
    if own["rows"].sum(dtype=float) + own["left"].sum(dtype=float) > 1 << 62:
        raise ValueError("its shards have more samples than can be counted")
    starts = np.cumsum(own["rows"] + own["left"])
    for number, out in shards.skipped.items():
        end = int(starts[number])
        before = end - int(own["rows"][number]) - len(out)
        at = [sample.index for sample in out]
        digests = any(bool(sample.inputs) != manifest.by_content for sample in out)
        wrong[number] |= digests or _apart_from(at, before, end)
    if not wrong.any():
        return
    number = int(wrong.argmax())
    shard, start = shards[number], int(starts[number]) - shards[number].samples
    at = [sample.index for sample in shard.skipped]
    if not shard.inputs or len(shard.labels) != labels:
        what = f"has {len(shard.labels)} labels for {labels} columns of them"
    elif not shard.rows * width + 8 <= shard.bytes or shard.rows and not width:
        what = f"has {counted(shard.bytes, 'byte')}, which does not fit {counted(shard.rows, 'row')} of {width:,}"
    elif _apart_from(at, start, start + shard.samples):
        what = (
            f"leaves out samples that are not among its own, {start} to {start + shard.samples - 1}"
        )
    elif any(bool(sample.inputs) != manifest.by_content for sample in shard.skipped):
        what = "has samples that were left out with digests, and some without"
    else:
        what = f"has the file of another shard, {shard.file}"
    raise ValueError(f"shards[{number}] {what}")


def _apart_from(numbers: list[int], start: int, end: int) -> bool:
    """Whether numbers do not grow, or are not in a range."""
    return any(b <= a for a, b in zip([start - 1, *numbers], [*numbers, end], strict=True))
