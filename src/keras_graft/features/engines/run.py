"""One run of a trunk over data: compares it with the store that is there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, batches, count, numbered
from keras_graft.features.engines.building import Runner
from keras_graft.features.engines.by_content import Rest, check_reused
from keras_graft.features.engines.pipeline import failed
from keras_graft.features.sources.check import check_inputs
from keras_graft.features.store.checksum import Checksums
from keras_graft.features.store.columns import Columns
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.location import Location, leftovers
from keras_graft.features.store.manifest import FORMAT, ORDERED, Manifest, differences
from keras_graft.model.fingerprint import versions
from keras_graft.tables import counted


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

    def __post_init__(self) -> None:
        found = self.found
        if found is not None and found.shards and not found.by_content:
            self.columns = replace(self.columns, by_content=False)

    @property
    def folder(self) -> Folder:
        """The folder of the store."""
        return self.location.folder

    @property
    def found(self) -> Manifest | None:
        """The manifest of the store that is there."""
        return self.location.found

    def stream(self, data: Any) -> Iterator[Batch]:
        """Yield the batches of data with their keys; refuse the first if it cannot be taken."""
        for number, batch in enumerate(self.columns.keyed(batches(data, self.batch_size))):
            if not number:
                check_inputs(self.trunk, batch.x)
                self.columns.check(batch)
            yield batch

    def runner(self) -> Runner:
        """Return a runner of the trunk."""
        return Runner(self.trunk, self.found is not None and self.found.rows > 0)

    def check_keys(self, total: int | None) -> None:
        """Refuse keys if their number differs from the number of samples."""
        keys = self.columns.keys
        if keys is not None and total is not None and len(keys[0]) != total:
            raise FeatureError(
                f"There is a different number of keys: {counted(total, 'sample')}, {counted(len(keys[0]), 'key')}."
            )

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

    def rest(self, stream: Iterator[Batch], data: Any = None) -> Iterable[Batch] | None:
        """Check that the store was made of this data, and skip the samples that are in it.

        Args:
            stream: The batches.
            data: The data that they come from; see `check_labels` for what is compared of it.

        Returns:
            The samples that must still be computed; None if the store is complete.
        """
        found = self.found
        if found is None or not found.shards:
            return stream
        self.check_found(count(data))
        if not found.by_content:
            return self._in_order(found, stream, data)
        if found.complete:
            return check_reused(self, stream, data)
        return Rest(self, stream, data)

    def _in_order(
        self, found: Manifest, stream: Iterator[Batch], data: Any
    ) -> Iterator[Batch] | None:
        """Do the same for a store without digests: its samples are known by their order."""
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
                    self.refuse([f"{counted(found.samples, 'sample')}, now {done:,}"])
                part, rest = batch[:missing], batch[missing:] if len(batch) > missing else None
                inputs.add(part.x)
                labels.add(list(self.columns.labels(part)[1].values()))
                missing -= len(part)
                skipped = {sample.index for sample in found.skipped}
                works = [done + i not in skipped for i in range(len(part))]
                checked = checked or self.check_columns(part, works)
            self.check_same(shard, passed, inputs.values, labels.values)
            passed += shard.samples
        self.check_labels(data)
        return None if found.complete else chain([] if rest is None else [rest], stream)

    def check_labels(self, data: Any) -> None:
        """If the data is whole arrays, compare the targets, weights and keys of all shards."""
        assert self.found is not None
        whole = numbered(data)
        if whole is None:
            return
        if self.columns.keys is not None:
            whole = replace(whole, k=self.columns.keys[0])
        start = 0
        for shard in self.found.shards:
            part, labels = whole[start : start + shard.samples], Checksums()
            labels.add(list(self.columns.labels(part)[1].values()))
            self.check_same(shard, start, shard.inputs, labels.values)
            start += shard.samples

    def check_found(self, total: int | None) -> None:
        """Refuse a store of a different trunk or data, or one that lacks samples."""
        found = self.found
        assert found is not None
        if found.trunk != self.digests:
            keys = [*self.digests, *(k for k in found.trunk if k not in self.digests)]
            parts = [k for k in keys if found.trunk.get(k) != self.digests.get(k)]
            self.refuse([f"the {part} of the trunk" for part in parts])
        if found.complete and total is not None and total != found.samples:
            self.refuse([f"{counted(found.samples, 'sample')}, now {total:,}"])
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

    def check_columns(self, batch: Batch, works: Iterable[Any]) -> bool:
        """Compare the columns, using a sample that works; return whether there was one."""
        i = next((i for i, good in enumerate(works) if good), None)
        if i is not None:
            one = batch[i : i + 1]
            self.described(self.trunk.predict_on_batch(one.x), one)
        return i is not None

    def check_label_columns(self, batch: Batch) -> None:
        """Refuse targets, weights or keys of another shape or dtype, or where there were none."""
        assert self.found is not None
        layout, labels = self.columns.labels(batch)
        own = {
            n: c for n, c in self.found.columns.items() if n.startswith(("features/", "digests/"))
        }
        kinds = {k: v for k, v in self.found.layout.items() if k in ("features", "digests")}
        now = self.found.replace(
            columns={**own, **self.columns.described(labels)}, layout={**kinds, **layout}
        )
        wrong = differences(self.found, now)
        if wrong:
            self.refuse(wrong)

    def described(self, outputs: Any, batch: Batch) -> Manifest:
        """Return the manifest to continue with; refuse if the store that is there differs.

        Args:
            outputs: The trunk's outputs for some samples; None if it fails on all.
            batch: The samples.
        """
        if outputs is None and self.found is not None:
            return self.found
        layout, features = self.columns.of(outputs)
        more, labels = self.columns.labels(batch)
        columns = self.columns.described({**features, **labels})
        row_bytes = sum(c.bytes for c in columns.values())
        digests = self.columns.digests(batch)
        more = {**more, "digests": "dict"} if digests else more
        columns.update(self.columns.described(digests))
        if not row_bytes:
            raise FeatureError(
                f"{self.trunk.name!r} gives features of width 0, so there is nothing to store: "
                f"{', '.join(f'{k} {v}' for k, v in columns.items())}. Cut elsewhere."
            )
        new = Manifest(
            columns, {**layout, **more}, self.digests, self.batch_size,
            max(1, self.shard_bytes // row_bytes), versions(),
            format=FORMAT if digests else ORDERED,
        )  # fmt: skip
        if self.found is None or not self.found.shards:
            return new
        wrong = differences(self.found, new)
        if wrong:
            self.refuse(wrong)
        return new.replace(
            shards=self.found.shards, rows_per_shard=self.found.rows_per_shard
        )  # fmt: skip

    def check_ended(self, rest: Any, written: Manifest | None) -> None:
        """Refuse data that lacks samples of the store, and take back what was written of it.

        Args:
            rest: What `rest` returned, after all of it was read.
            written: The manifest of what was written since, or None.
        """
        if not isinstance(rest, Rest):
            return
        try:
            rest.check_all_found()
        except FeatureError:
            if written is not None and self.found is not None:
                self.found.save(self.folder)
                for name in leftovers(self.folder, self.found):
                    self.folder.delete(name)
            raise

    def end(self) -> None:
        """Mark the store as complete: there is no more data."""
        if self.found is None:
            raise FeatureError("The data is empty.")
        self.found.finished().save(self.folder)

    def refuse(self, wrong: list[str]) -> NoReturn:
        """Raise the error that says how the store differs."""
        raise FeatureError(
            f"{self.folder} holds different features: {'; '.join(wrong)}. Give another "
            f"folder, or compute it again: {advice.option('resume', False)}."
        )
