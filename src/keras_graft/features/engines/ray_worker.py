"""An actor of a Ray cluster: it turns blocks of samples into shards."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.features.engines.building import Building, Runner, reason
from keras_graft.features.engines.ray_rows import Rows
from keras_graft.features.store.checksum import Checksums
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.journal import Numbered
from keras_graft.features.store.manifest import NAME, Manifest
from keras_graft.features.store.remote import folder_at
from keras_graft.features.store.shards import shard_name
from keras_graft.model.fingerprint import fingerprint


@dataclass
class Work:
    """What an actor needs to know besides the trunk.

    Attributes:
        store: The path or URL of the store.
        columns: How batches become columns.
        manifest: A manifest with the columns of the store.
        skip: Whether samples that fail are left out.
        sample: A sample for actors to try.
        number: The number in the name of the first shard.
        journal: What adds shards of known numbers to the journal.
        rows: For a Ray dataset: which columns are which.
        known: For a Ray dataset: the shards that are in the store already.
    """

    store: str = field(repr=False)  # with its secrets
    columns: Columns
    manifest: Manifest
    skip: bool
    sample: Batch
    number: int = 0
    journal: Numbered | None = None
    rows: Rows | None = None
    known: Shards = field(default_factory=Shards)


class Known:
    """The shards that a store has, found by the checksums of their samples.

    To look through all of them for each block would take longer and longer as the store grows.

    Args:
        shards: The shards.
    """

    def __init__(self, shards: Shards) -> None:
        own = shards.array
        self._shards = shards
        self._ends = np.cumsum(own["rows"] + own["left"])
        sums = zip(own["inputs"].tolist(), own["labels"].tolist(), strict=True)
        self._numbers: dict[Any, int] = {}
        for number, (inputs, labels) in enumerate(sums):
            self._numbers.setdefault((*inputs, None, *labels), number)

    def find(self, inputs: tuple[str, ...], labels: tuple[str, ...]) -> ShardEntry | None:
        """Return the first shard of these samples, its own samples counted from 0; None without any.

        Args:
            inputs: The checksums of its inputs.
            labels: The checksums of targets, sample weights and keys.
        """
        sums = [int(s, 16) for s in inputs], [int(s, 16) for s in labels]
        number = self._numbers.get((*sums[0], None, *sums[1]))
        if number is None:
            return None
        entry = self._shards[number]
        return moved(entry, entry.samples - int(self._ends[number]))


class Worker:
    """An actor. It gets samples, writes a shard and returns its entry in the manifest.

    A shard of local data has a number: the actor adds it to the journal. Blocks of a Ray dataset do
    not say which number they have (`ray.py`). If an actor is killed, Ray starts another one and
    gives it the unfinished work.
    """

    def __init__(self, work: Work, trunk: Any, digests: dict[str, str]) -> None:
        self._work, self._folder = work, folder_at(work.store)
        self._wrong, model = "", None
        try:
            self._check_folder()
            model = self._model(trunk, digests)
        except (
            FeatureError
        ) as error:  # returned with the first shard: if it were raised here, Ray would try forever
            self._wrong = str(error)
        self._run, self._known = Runner(model, True), Known(work.known)

    def _check_folder(self) -> None:
        """Refuse a folder that is not the caller's."""
        if self._work.journal is not None and NAME not in self._folder.sizes():
            raise FeatureError(
                f"The caller wrote {NAME!r}, and for an actor it is {not_in(self._folder)}"
            )

    def _model(self, trunk: Any, digests: dict[str, str]) -> Any:
        """Return the trunk; refuse one that differs from the caller's."""
        import ray

        try:
            # In a list, a reference is not yet followed.
            model = loaded(*ray.get(trunk[0] if isinstance(trunk, list) else trunk))
        except Exception as error:
            raise FeatureError(
                f"The trunk cannot be loaded on the actors: {reason(error)} Where they lack the "
                'code of a layer, give it to them: ray.init(runtime_env={"working_dir": "."}).'
            ) from error
        now = fingerprint(model)
        if now != digests:
            raise FeatureError(f"The trunk is different after loading: {digests}, now {now}.")
        try:
            model.predict_on_batch(self._work.sample.x)
        except Exception as error:
            raise FeatureError(
                f"The trunk fails on the actors, on a sample that was tried: {reason(error)}"
            ) from error
        return model

    def ready(self) -> None:
        """Return once the actor has started."""

    def work(self, number: int, start: int, batches: list[Batch]) -> str:
        """Return the entry of a shard in the manifest as JSON, or what is wrong.

        Args:
            number: Its number among the shards of this run.
            start: The number of its first sample.
            batches: Its samples.
        """
        return self._told(lambda: self._numbered(number, start, batches))

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Do the same for a block of a Ray dataset."""
        return {"told": np.array([self._told(lambda: self._block(block))], object)}

    def _told(self, call: Callable[[], ShardEntry]) -> str:
        try:
            told = {"wrong": self._wrong} if self._wrong else asdict(call())
        except FeatureError as error:
            told = {"wrong": str(error)}
        return json.dumps(told)

    def _numbered(self, number: int, start: int, batches: list[Batch]) -> ShardEntry:
        work, folder = self._work, self._folder
        assert work.journal is not None
        # An actor that was killed may have added it, and did not come to say so. Another actor may
        # get other bits: to write the shard again would not fit what the journal says of it.
        entry = work.journal.find(folder, number)
        if entry is not None:
            return entry
        name = shard_name(work.number + number)
        pieces, entry = self._computed(name, [(batch, {}) for batch in batches], start)
        if work.skip or not entry.skipped:
            # An actor whose caller was killed may still run, beside those of the next caller.
            work.journal.check(folder)
            folder.write(name, *pieces)
            work.journal.add(folder, number, entry)
        return entry

    def _block(self, block: dict[str, Any]) -> ShardEntry:
        assert self._work.rows is not None
        found = list(self._work.rows.batches(block))
        entry = self._done(found)
        if entry is not None:
            return entry
        name = shard_name(uuid.uuid4().hex)
        pieces, entry = self._computed(name, found, 0)
        if self._work.skip or not entry.skipped:
            self._folder.write(name, *pieces)
        return entry

    def _computed(
        self, name: str, found: list[tuple[Batch, dict[int, str]]], start: int
    ) -> tuple[list[memoryview], ShardEntry]:
        """Return the bytes of a shard, in pieces, and its entry."""
        building = Building(self._work.columns, self._work.manifest.columns)
        for batch, bad in found:
            good = [i for i in range(len(batch)) if i not in bad]
            outputs, lost = self._run(batch.rows(good)) if good else (None, {})
            lost = {**bad, **{good[i]: why for i, why in lost.items()}}
            building.add(outputs, batch, start, lost)
            start += len(batch)
        return building.finish(name)

    def _done(self, found: list[tuple[Batch, dict[int, str]]]) -> ShardEntry | None:
        """Return the entry of the known shard of these very samples."""
        if not self._work.known:
            return None
        inputs, labels = Checksums(), Checksums()
        for batch, _ in found:
            inputs.add(batch.x)
            labels.add(list(self._work.columns.labels(batch)[1].values()))
        return self._known.find(inputs.values, labels.values)


def not_in(folder: Folder) -> str:
    """Return what to say of a file that another machine wrote and that is not there."""
    return (
        f"not in {folder}: give a folder that all machines share, or a URL: "
        'store="s3://bucket/features".'
    )


def loaded(file: bytes, custom: dict[str, Any]) -> Any:
    """Return the model in a file. `custom` is the code that it needs besides Keras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.keras"
        path.write_bytes(file)
        # The caller wrote the file, so Lambda layers in it may be loaded.
        return keras.saving.load_model(path, custom_objects=custom, compile=False, safe_mode=False)


def moved(entry: ShardEntry, by: int) -> ShardEntry:
    """Return the entry of a shard with the numbers of its samples moved."""
    return replace(entry, skipped=tuple(replace(s, index=s.index + by) for s in entry.skipped))
