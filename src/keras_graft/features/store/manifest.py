"""The manifest of a store: its columns, the trunk they are of, and its shards."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.schema import bounded, encodable
from keras_graft.printable import shown, words_of

NAME = "manifest.json"
FORMAT = 3
ORDERED = 2
"""The format of stores without digests: their samples are known by their order alone."""
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


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out of the store.

    Attributes:
        index: Its number in the data, or where the data was shuffled, in the order of the store.
        reason: Why it failed.
        inputs: The digest of its inputs, in hexadecimal digits; empty in stores without digests.
    """

    index: int
    reason: str
    inputs: str = ""


@dataclass(frozen=True)
class ShardEntry:
    """One shard.

    Attributes:
        file: The name of the file.
        rows: How many samples it holds.
        bytes: The size of the file.
        checksum: The checksum of the file.
        inputs: For each input of the trunk, the checksum of the data.
        labels: The checksums of all other columns: targets, sample weights, keys.
        skipped: The samples that were left out.
    """

    file: str
    rows: int
    bytes: int
    checksum: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def samples(self) -> int:
        """How many samples it was made from, with those that were left out."""
        return self.rows + len(self.skipped)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> ShardEntry:
        """Return the entry that JSON describes."""
        skipped = tuple(Skipped(**s) for s in raw["skipped"])
        inputs, labels = tuple(raw["inputs"]), tuple(raw["labels"])
        return cls(**{**raw, "inputs": inputs, "labels": labels, "skipped": skipped})


@dataclass(frozen=True)
class Manifest:
    """What a store holds, and how it was made.

    Attributes:
        columns: The columns by name: `"features/pool"`, `"views/1/pool"`, `"targets/"`,
            `"weights/"`, `"keys/"`.
        layout: How features, targets and weights are nested: `"one"`, `"dict"` or `"list"`.
        trunk: The fingerprint of the trunk.
        batch_size: Samples in a batch when it was computed.
        rows_per_shard: The number of samples after which a shard is written.
        versions: The versions of Keras and keras-graft, and the backend.
        shards: The shards, in order: the samples are in the order of the data.
        complete: Whether all data was read.
    """

    columns: dict[str, Column]
    layout: dict[str, str]
    trunk: dict[str, str]
    batch_size: int
    rows_per_shard: int
    versions: dict[str, str]
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False
    format: int = field(default=FORMAT)

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return sum(shard.rows for shard in self.shards)

    @property
    def views(self) -> int:
        """How many augmented views of each sample there are."""
        return len({n.split("/")[1] for n in self.columns if n.startswith("views/")})

    @property
    def samples(self) -> int:
        """How many samples of the data were read, with those that were left out."""
        return sum(shard.samples for shard in self.shards)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The samples that were left out."""
        return tuple(sample for shard in self.shards for sample in shard.skipped)

    @property
    def by_content(self) -> bool:
        """Whether it knows its samples by what they hold, and not by their order alone."""
        return INPUTS in self.columns

    def replace(self, **changes: Any) -> Manifest:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def save(self, folder: Folder) -> None:
        """Write it to a folder, in place of the one before.

        Raises:
            FeatureError: If it would be too long to be read.
        """
        raw = dataclasses.asdict(self)
        if not self.by_content:
            for shard in raw["shards"]:
                for sample in shard["skipped"]:
                    del sample["inputs"]
        said = json.dumps(raw, indent=1).encode()
        try:
            bounded(said)
        except ValueError as error:
            raise FeatureError(
                f"{folder}/{NAME} would be too long: {words_of(error)}. Make fewer shards, shard_bytes=1 << 30, "
                f"and leave out fewer samples ({len(self.skipped):,} so far)."
            ) from error
        folder.write(NAME, f'{{\n "checksum": "{checksum([said])}",'.encode() + said[1:])


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Say how a store differs from what would now be written into it."""
    found = [
        f"the {part} of the trunk ({old.trunk.get(part)}, now {new.trunk.get(part)})"
        for part in new.trunk
        if old.trunk.get(part) != new.trunk[part]
    ]
    for name in sorted({*old.columns, *new.columns}):
        before, now = old.columns.get(name), new.columns.get(name)
        if before != now:
            found.append(f"{name.rstrip('/')}: {before or 'absent'}, now {now or 'absent'}")
    found += [
        f"the nesting of {kind}: {old.layout.get(kind)}, now {new.layout.get(kind)}"
        for kind in sorted({*old.layout, *new.layout})
        if old.layout.get(kind) != new.layout.get(kind)
    ]
    return found


def packed(kind: str, structure: Any) -> tuple[str, dict[str, Any]]:
    """Return how a structure is nested, and its arrays by column name.

    Raises:
        FeatureError: If a dict or list holds another one.
    """
    inner = structure.values() if isinstance(structure, Mapping) else structure
    if isinstance(structure, Mapping | list | tuple) and any(
        isinstance(value, Mapping | list | tuple) for value in inner
    ):
        raise FeatureError(
            f"The {kind} are nested more than once, and a store holds an array, or a dict or list "
            "of arrays: bring them into one dict, {'a/0': ..., 'a/1': ..., 'b': ...}."
        )
    if isinstance(structure, Mapping):
        columns = {f"{kind}/{key}": value for key, value in structure.items()}
        bad = next((key for key in columns if not encodable(key)), None)
        if bad is not None:
            raise FeatureError(f"The name {shown(bad)} of the {kind} is not a text: rename it.")
        return "dict", columns
    if isinstance(structure, list | tuple):
        return "list", {f"{kind}/{i}": value for i, value in enumerate(structure)}
    return "one", {f"{kind}/": structure}


def unpacked(kind: str, layout: str, columns: Mapping[str, Any]) -> Any:
    """Return the structure of some columns: the inverse of `packed`."""
    own = {k.removeprefix(f"{kind}/"): v for k, v in columns.items() if k.startswith(f"{kind}/")}
    if layout == "one":
        return own[""]
    return own if layout == "dict" else [own[str(i)] for i in range(len(own))]
