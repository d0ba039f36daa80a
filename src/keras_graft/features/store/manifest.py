"""The manifest of a store: its columns, the trunk they are of, and its shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_graft.errors import FeatureError
from keras_graft.features.store.checksum import checksum
from keras_graft.features.store.column import INPUTS, Column
from keras_graft.features.store.entries import ShardEntry, Shards, Skipped
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.lines import lines
from keras_graft.features.store.schema import encodable
from keras_graft.features.store.segments import delete, segments
from keras_graft.printable import shown

NAME = "manifest.json"
FORMAT = 3
ORDERED = 2
"""The format of stores without digests: their samples are known by their order alone."""
LARGEST = 1 << 30
"""The most bytes of a manifest: five million shards."""
RUN = "run"
"""What is called so among the versions of a manifest marks one run, until the store is complete."""
HEAD = 40
"""Bytes of a manifest with its checksum in them."""
BEGIN, END = '\n "shards": [', "\n ]"
"""What stands around the lines of the shards in a manifest."""


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
    shards: Shards = field(default_factory=Shards)
    complete: bool = False
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", Shards.of(self.shards))

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return self.shards.rows

    @property
    def views(self) -> int:
        """How many augmented views of each sample there are."""
        return len({n.split("/")[1] for n in self.columns if n.startswith("views/")})

    @property
    def samples(self) -> int:
        """How many samples of the data were read, with those that were left out."""
        return self.shards.samples

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The samples that were left out."""
        return tuple(sample for _, own in sorted(self.shards.skipped.items()) for sample in own)

    @property
    def by_content(self) -> bool:
        """Whether it knows its samples by what they hold, and not by their order alone."""
        return INPUTS in self.columns

    def replace(self, **changes: Any) -> Manifest:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def added(self, *entries: ShardEntry) -> Manifest:
        """Return a copy with some more shards."""
        return self.replace(shards=self.shards.added(*entries))

    def marked(self, mark: str) -> Manifest:
        """Return a copy with the mark of a run; without one if `mark` is empty.

        Its checksum is that of no other run, so no other run can add to its journal.
        """
        versions = {name: said for name, said in self.versions.items() if name != RUN}
        return self.replace(versions={**versions, RUN: mark} if mark else versions)

    def finished(self) -> Manifest:
        """Return a copy that is complete."""
        return self.marked("").replace(complete=True)

    def text(self) -> tuple[str, bytes]:
        """Return its checksum, and the bytes of its file.

        Raises:
            FeatureError: If it would be too long to be read.
        """
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        raw["columns"] = {name: dataclasses.asdict(c) for name, c in self.columns.items()}
        head, _, rest = json.dumps({**raw, "shards": []}, indent=1).partition(f"{BEGIN}]")
        if self.shards:
            own = ",\n  ".join(lines(self.shards))
            said = f"{head}{BEGIN}\n  {own}{END}{rest}".encode()
        else:
            said = f"{head}{BEGIN}]{rest}".encode()
        if len(said) > LARGEST - 40:
            raise FeatureError(
                f"The manifest would be too long: {len(said):,} bytes, and at most {LARGEST:,} are read. "
                "Make fewer shards, shard_bytes=1 << 30, and leave out fewer samples "
                f"({len(self.skipped):,} so far)."
            )
        own_checksum = checksum([said])
        return own_checksum, f'{{\n "checksum": "{own_checksum}",'.encode() + said[1:]

    def save(self, folder: Folder) -> str:
        """Write it to a folder as a whole, in place of what is there; return its checksum.

        Shards that a journal has added to the manifest before it do not count any longer.

        Raises:
            FeatureError: If it would be too long to be read.
        """
        total, data = self.text()
        there = segments(folder)
        # This very manifest may have had a journal, which must not come to life again.
        delete(folder, (name for name in there if total in name))
        folder.write(NAME, data)
        delete(folder, (name for name in there if total not in name))
        return total


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
