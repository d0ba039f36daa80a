"""One run of a trunk over data: compares it with the store that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, count, numbered
from keras_graft.features.engines.building import Runner
from keras_graft.features.engines.pipeline import failed
from keras_graft.features.store.checksum import Checksums
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.location import Location
from keras_graft.features.store.manifest import Manifest, ShardEntry, differences
from keras_graft.model.fingerprint import versions


@dataclass
class Run:
    """One run.

    Attributes:
        trunk: The model.
        digests: Its fingerprint.
        location: The folder, and the store that is there.
        columns: How batches become columns.
        batch_size: Samples in a batch.
        shard_bytes: The approximate size of a shard.
        skip: Whether samples that fail are left out.
    """

    trunk: Any
    digests: dict[str, str]
    location: Location
    columns: Columns
    batch_size: int
    shard_bytes: int
    skip: bool

    @property
    def folder(self) -> Folder:
        """The folder of the store."""
        return self.location.folder

    @property
    def found(self) -> Manifest | None:
        """The manifest of the store that is there."""
        return self.location.found

    def runner(self) -> Runner:
        """Return a runner of the trunk."""
        return Runner(self.trunk, self.found is not None and self.found.rows > 0)

    def check_keys(self, total: int | None) -> None:
        """Refuse keys if their number differs from the number of samples."""
        keys = self.columns.keys
        if keys is not None and total is not None and len(keys[0]) != total:
            raise FeatureError(f"There are {total} samples, but {len(keys[0])} keys.")

    @property
    def compared(self) -> int:
        """The number of samples whose inputs are compared with the store.

        For a complete store, only those up to the first shard with rows: to read all data may take
        long.
        """
        found = self.found
        assert found is not None
        number = next((i for i, shard in enumerate(found.shards, 1) if shard.rows), None)
        shards = found.shards[:number] if found.complete else found.shards
        return sum(shard.samples for shard in shards)

    def passed(self, stream: Iterator[Batch], data: Any = None) -> tuple[int, Batch | None] | None:
        """Skip the samples that are in the store, and check that it was made of these inputs.

        Args:
            stream: The batches.
            data: The data that they come from; see `check_labels` for what is compared of it.

        Returns:
            How many samples were skipped, and the rest of the last batch; None if the store is
            complete.
        """
        found = self.found
        if found is None or not found.shards:
            return 0, None
        self.check_found(count(data))
        passed, checked, compared = 0, False, self.compared
        rest: Batch | None = None
        for shard in found.shards:
            if passed == compared:
                break
            inputs, labels = Checksums(), Checksums()
            missing = shard.samples
            while missing:
                done = passed + shard.samples - missing
                batch = rest or next(stream, None)
                if batch is None:
                    self.refuse([f"{found.samples} samples, now {done}"])
                part, rest = batch[:missing], batch[missing:] if len(batch) > missing else None
                inputs.add(part.x)
                labels.add(list(self.columns.labels(part, done)[1].values()))
                missing -= len(part)
                checked = checked or self._check_columns(part, done)
            self.check_same(shard, passed, inputs.values, labels.values)
            passed += shard.samples
        self.check_labels(data)
        return None if found.complete else (passed, rest)

    def check_labels(self, data: Any) -> None:
        """If the data is whole arrays, compare the targets, weights and keys of all shards."""
        assert self.found is not None
        whole = numbered(data)
        if whole is None:
            return
        start = 0
        for shard in self.found.shards:
            part, labels = whole[start : start + shard.samples], Checksums()
            labels.add(list(self.columns.labels(part, start)[1].values()))
            self.check_same(shard, start, shard.inputs, labels.values)
            start += shard.samples

    def check_found(self, total: int | None) -> None:
        """Refuse a store of a different trunk or data, or one that lacks samples."""
        found = self.found
        assert found is not None
        if found.trunk != self.digests:
            parts = [k for k in self.digests if found.trunk.get(k) != self.digests[k]]
            self.refuse([f"the {part} of the trunk" for part in parts])
        if found.complete and total is not None and total != found.samples:
            self.refuse([f"{found.samples} samples, now {total}"])
        if found.complete:
            self.check_keys(found.samples)
        if found.skipped and not self.skip:
            raise failed(found.skipped[0])

    def check_same(self, shard: ShardEntry, start: int, inputs: Any, labels: Any) -> None:
        """Refuse a shard that was made of different data.

        Args:
            shard: Its entry in the manifest.
            start: The number of its first sample.
            inputs: Checksums of the inputs now.
            labels: Checksums of targets, sample weights and keys now.
        """
        samples = f"the samples {start} to {start + shard.samples - 1}"
        if inputs != shard.inputs:
            self.refuse(
                [
                    f"{samples} were made of different inputs, or in a different order (shuffled data?)"
                ]
            )
        # If their number differs, so do the columns, which are compared elsewhere.
        if len(labels) == len(shard.labels) and labels != shard.labels:
            self.refuse([f"{samples} had different targets, sample weights or keys"])

    def _check_columns(self, batch: Batch, start: int) -> bool:
        """Compare the columns, using a sample that works; return whether there was one."""
        assert self.found is not None
        skipped = {sample.index for sample in self.found.skipped}
        for i in range(len(batch)):
            if start + i not in skipped:
                one = batch[i : i + 1]
                self.described(self.trunk.predict_on_batch(one.x), one, start + i)
                return True
        return False

    def described(self, outputs: Any, batch: Batch, start: int) -> Manifest:
        """Return the manifest to continue with; refuse if the store that is there differs.

        Args:
            outputs: The trunk's outputs for some samples; None if it fails on all.
            batch: The samples.
            start: The number of the first sample.
        """
        if outputs is None and self.found is not None:
            return self.found
        layout, features = self.columns.of(outputs)
        more, labels = self.columns.labels(batch, start)
        columns = self.columns.described({**features, **labels})
        row_bytes = sum(c.bytes for c in columns.values())
        if not row_bytes:
            raise FeatureError(
                f"{self.trunk.name!r} gives features of width 0, so there is nothing to store: "
                f"{', '.join(f'{k} {v}' for k, v in columns.items())}. Cut elsewhere."
            )
        new = Manifest(
            columns, {**layout, **more}, self.digests, self.batch_size,
            max(1, self.shard_bytes // row_bytes), versions(),
        )  # fmt: skip
        if self.found is None or not self.found.shards:
            return new
        wrong = differences(self.found, new)
        if wrong:
            self.refuse(wrong)
        return new.replace(
            shards=self.found.shards, rows_per_shard=self.found.rows_per_shard
        )  # fmt: skip

    def end(self) -> None:
        """Mark the store as complete: there is no more data."""
        if self.found is None:
            raise FeatureError("The data is empty.")
        self.found.replace(complete=True).save(self.folder)

    def refuse(self, wrong: list[str]) -> NoReturn:
        """Raise the error that says how the store differs."""
        raise FeatureError(
            f"{self.folder} holds different features: {'; '.join(wrong)}. Give another "
            "folder, or compute it again: resume=False."
        )
