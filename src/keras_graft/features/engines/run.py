"""One run over data into a store: what is there already, and whether it is of this trunk and data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, count, numbered
from keras_graft.features.engines.building import Runner
from keras_graft.features.engines.pipeline import failed
from keras_graft.features.fingerprint import versions
from keras_graft.features.store.checksum import Checksums
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.manifest import Manifest, ShardEntry, differences
from keras_graft.features.store.place import Place


@dataclass
class Run:
    """One run.

    Attributes:
        trunk: The model.
        print: Its fingerprint.
        place: Where the store is, and what lies there.
        columns: What a batch becomes.
        batch_size: Samples in a batch.
        shard_bytes: About how long a shard is.
        skip: Whether samples that fail are left out.
    """

    trunk: Any
    print: dict[str, str]
    place: Place
    columns: Columns
    batch_size: int
    shard_bytes: int
    skip: bool

    @property
    def folder(self) -> Folder:
        """Where the store is."""
        return self.place.folder

    @property
    def found(self) -> Manifest | None:
        """What the store there says of itself."""
        return self.place.found

    def runner(self) -> Runner:
        """Return what runs the trunk."""
        return Runner(self.trunk, self.found is not None and self.found.rows > 0)

    def check_keys(self, total: int | None) -> None:
        """Refuse keys that are not as many as the samples, once these are counted."""
        keys = self.columns.keys
        if keys is not None and total is not None and len(keys[0]) != total:
            raise FeatureError(f"{total} samples and {len(keys[0])} keys.")

    @property
    def compared(self) -> int:
        """How many samples have to do to compare inputs: to read all the data may take long.

        Of a complete store: those of its shards up to the first that holds rows.
        """
        found = self.found
        assert found is not None
        number = next((i for i, shard in enumerate(found.shards, 1) if shard.rows), None)
        shards = found.shards[:number] if found.complete else found.shards
        return sum(shard.samples for shard in shards)

    def passed(self, stream: Iterator[Batch], data: Any = None) -> tuple[int, Batch | None] | None:
        """Pass by what is in the store, and check that it was made of these very inputs.

        Args:
            stream: The batches.
            data: What they are of; whole arrays are compared as far as `Run.check_labels` says.

        Returns:
            How many samples were passed by, and what is left of the last batch; None if there is
            nothing to do.
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
        """Refuse other targets, sample weights or keys in any shard, if the data is arrays."""
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
        """Refuse a store of another trunk, of other data, or with samples left out unasked."""
        found = self.found
        assert found is not None
        if found.trunk != self.print:
            parts = [k for k in self.print if found.trunk.get(k) != self.print[k]]
            self.refuse([f"the {part} of the trunk" for part in parts])
        if found.complete and total is not None and total != found.samples:
            self.refuse([f"{found.samples} samples, now {total}"])
        if found.complete:
            self.check_keys(found.samples)
        if found.skipped and not self.skip:
            raise failed(found.skipped[0])

    def check_same(self, shard: ShardEntry, start: int, inputs: Any, labels: Any) -> None:
        """Refuse a shard that was made of something else.

        Args:
            shard: What the store says.
            start: The number of its first sample.
            inputs: Checksums of the inputs now.
            labels: Checksums of targets, sample weights and keys now.
        """
        samples = f"the samples {start} to {start + shard.samples - 1}"
        if inputs != shard.inputs:
            self.refuse(
                [f"{samples} were made of other inputs, or in another order (shuffled data?)"]
            )
        # Others in number are other columns: that is said where columns are compared.
        if len(labels) == len(shard.labels) and labels != shard.labels:
            self.refuse([f"{samples} had other targets, sample weights or keys"])

    def _check_columns(self, batch: Batch, start: int) -> bool:
        """Compare the columns, by a sample that works; say whether there was one."""
        assert self.found is not None
        skipped = {sample.index for sample in self.found.skipped}
        for i in range(len(batch)):
            if start + i not in skipped:
                one = batch[i : i + 1]
                self.described(self.trunk.predict_on_batch(one.x), one, start + i)
                return True
        return False

    def described(self, outputs: Any, batch: Batch, start: int) -> Manifest:
        """Return the manifest to go on from, once it fits the one that is there.

        Args:
            outputs: What the trunk gives for some samples, None if it fails on all.
            batch: The samples.
            start: The number of the first.
        """
        if outputs is None and self.found is not None:
            return self.found
        layout, features = self.columns.of(outputs)
        more, labels = self.columns.labels(batch, start)
        columns = self.columns.described({**features, **labels})
        row_bytes = sum(c.bytes for c in columns.values())
        if not row_bytes:
            raise FeatureError(
                f"{self.trunk.name!r} gives features of no width, so there is nothing to keep: "
                f"{', '.join(f'{k} {v}' for k, v in columns.items())}. Cut elsewhere."
            )
        new = Manifest(
            columns, {**layout, **more}, self.print, self.batch_size,
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
        """Say that there is nothing more in the data."""
        if self.found is None:
            raise FeatureError("The data is empty.")
        self.found.replace(complete=True).save(self.folder)

    def refuse(self, wrong: list[str]) -> NoReturn:
        """Say that the store holds something else."""
        raise FeatureError(
            f"{self.folder} holds other features: {'; '.join(wrong)}. Give another folder, or "
            "write it anew: resume=False."
        )
