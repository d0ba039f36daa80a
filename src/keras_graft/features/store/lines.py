"""Entries of shards as lines of JSON, in a manifest and in a journal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_graft.features.store.entries import ShardEntry, Shards, Skipped, coded, dtype
from keras_graft.features.store.schema import Schema, many, parse, record, text, whole
from keras_graft.features.store.shards import SHARD

_WHOLE = "(0|[1-9][0-9]{0,18})"
_SUMS = r'\[((?:"[0-9a-f]{16}"(?:, (?=")|(?=\])))*)\]'
_LINE = re.compile(
    rf'\{{"file": "({SHARD})", "rows": {_WHOLE}, "bytes": {_WHOLE}, "checksum": "([0-9a-f]{{16}})", '
    rf'"inputs": {_SUMS}, "labels": {_SUMS}, "skipped": (\[.*\])\}}'
)
_TOGETHER = 4096
"""Lines that are read at once."""
SUM = text(r"([0-9a-f]{16})")
"""The schema of a checksum."""
_ORDERED = record(index=whole(), reason=text())
_BY_CONTENT = record(index=whole(), reason=text(), inputs=SUM)


def skipped(value: Any, at: str) -> None:
    """A sample that was left out."""
    known = isinstance(value, dict) and "inputs" in value
    (_BY_CONTENT if known else _ORDERED)(value, at)


_SKIPPED: Schema = many(skipped)


def line(entry: ShardEntry) -> str:
    """Return the entry of a shard as JSON in one line.

    >>> line(ShardEntry("shard", 2, 200, "0" * 16, ("1" * 16,), ()))[:44]
    '{"file": "shard", "rows": 2, "bytes": 200, "'
    """
    out = [
        {"index": s.index, "reason": s.reason, **({"inputs": s.inputs} if s.inputs else {})}
        for s in entry.skipped
    ]
    return json.dumps({
        "file": entry.file, "rows": entry.rows, "bytes": entry.bytes, "checksum": entry.checksum,
        "inputs": entry.inputs, "labels": entry.labels, "skipped": out,
    })  # fmt: skip


def lines(shards: Shards) -> Iterator[str]:
    """Yield the lines of all shards."""
    yield from map(line, shards)


def extended(shards: Shards, written: Sequence[str]) -> Shards | None:
    """Return shards, and those of some lines after them; None if a line is not as `line` writes it.

    It takes a few microseconds for a line, where JSON and a schema would take ten times as long.

    Raises:
        ValueError: If a sample that was left out is not described as it must be, or if shards have
            not as many inputs and labels as the first.
    """
    for start in range(0, len(written), _TOGETHER):
        found = _block(shards, written[start : start + _TOGETHER])
        if found is None:
            return None
        shards = found
    return shards


def _block(shards: Shards, written: Sequence[str]) -> Shards | None:
    matches = [_LINE.fullmatch(own) for own in written]
    if not all(matches):
        return None
    parts = [m.groups() for m in matches if m is not None]
    names, _, rows, sizes, sums, inputs, labels, out = zip(*parts, strict=True)
    widths = {(len(a), len(b)) for a, b in zip(inputs, labels, strict=True)}
    if len(widths) > 1:
        return None  # what reads them one by one says which
    ((a, b),) = widths
    block = np.zeros(len(written), dtype((a + 2) // 20, (b + 2) // 20))
    block["digits"], block["high"], block["low"] = np.array(
        list(map(coded, names)), np.uint64
    ).T  # fmt: skip
    try:
        block["rows"], block["bytes"] = list(map(int, rows)), list(map(int, sizes))
    except OverflowError:
        return None
    for name, texts in (("checksum", sums), ("inputs", inputs), ("labels", labels)):
        digits = "".join(texts).replace('"', "").replace(", ", "")
        block[name] = np.frombuffer(bytes.fromhex(digits), ">u8").reshape(block[name].shape)
    left = {}
    for i, own in enumerate(out):
        if own != "[]":
            raw = parse(own.encode())
            _SKIPPED(raw, f"shards[{len(shards) + i}].skipped")
            if raw:
                left[i] = tuple(Skipped(**sample) for sample in raw)
                block["left"][i] = len(raw)
    return shards.extended(block, left)
