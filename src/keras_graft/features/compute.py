"""Run a trunk once over data, and keep what it gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features import manifest as _manifest
from keras_graft.features.data import Batch, batches, count
from keras_graft.features.fingerprint import fingerprint, versions
from keras_graft.features.fixed import check_fixed
from keras_graft.features.folder import Folder
from keras_graft.features.manifest import Column, Manifest, packed
from keras_graft.features.pipeline import Ahead, Checksums, Writer, coded, labels
from keras_graft.features.remote import folder_at
from keras_graft.features.shards import DTYPES, dtype_of
from keras_graft.features.store import FeatureStore

_SHARD = 32 << 20


def compute(
    trunk: Any,
    data: Any,
    store: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    dtype: Literal["float16", "bfloat16", "float32"] | None = None,
    targets: bool = True,
    keys: Sequence[Any] | None = None,
    frozen: bool = False,
    resume: bool = True,
    progress: bool = True,
    shard_bytes: int = _SHARD,
) -> FeatureStore:
    """Run a trunk once over data into a store on the disk.

    Memory stays bounded, and writing overlaps computing. Killed at any moment, it loses at most
    the shard that was being written; called again, it goes on where it was, without a duplicate
    or a hole. A store that is complete is not computed again.

    Args:
        trunk: A Keras model, with one output or a dict or list of them: `kg.extract` gives all
            taps in one pass.
        data: Arrays, `(x, y)`, `(x, y, weights)`, a `tf.data.Dataset`, a torch `DataLoader`, a
            Keras `PyDataset` or any iterable of batches. Its order must be the same every time.
        store: The folder: a local path, or a URL that fsspec opens (`"s3://bucket/features"`),
            where a shard is one object, put before the manifest that names it.
        batch_size: For arrays; others come in batches of their own.
        dtype: What floating features are kept as; None: as the trunk gives them.
        targets: Keep targets and sample weights too, if the data has them.
        keys: One integer or text for each sample, in order.
        frozen: Say that no weight of the trunk will change, though Keras may train them.
        resume: Go on with what is there; else it is written anew.
        progress: Show a bar with the rate and the time left.
        shard_bytes: About how long a shard is.

    Returns:
        The store, complete.

    Raises:
        FeatureError: If the trunk is no fixed function (`kg.freeze` makes it one); if the store
            was made by another trunk, of other data, as another dtype or in another order, with
            what differs; if features overflow the dtype.

    >>> import keras, numpy as np, keras_graft as kg, tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> x, y = np.ones((10, 4), "float32"), np.arange(10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = kg.features.compute(kg.freeze(model), (x, y), folder, progress=False)
    ...     len(store), store.take([7])["targets"].tolist()
    (10, [7])
    """
    if dtype not in (None, "float16", "bfloat16", "float32"):
        raise FeatureError(
            f'dtype must be "float16", "bfloat16", "float32" or None, got {dtype!r}.'
        )
    if keys is not None and len(keys) == 0:
        raise FeatureError("keys is empty.")
    check_fixed(trunk, frozen)
    folder = folder_at(store)
    lock = folder.lock()
    if lock is None:
        raise FeatureError(f"Another process is writing to {folder}: wait for it, or stop it.")
    with lock:
        found = _manifest.load(folder) if resume else None
        if not resume:
            _forget(folder)
        run = _Run(trunk, folder, found, dtype, targets, coded(keys), batch_size, shard_bytes)
        run.over(data, progress)
    return FeatureStore(store)


def _forget(folder: Folder) -> None:
    """Take the manifest away first: a shard without one is nobody's."""
    if folder.read(_manifest.NAME) is not None:
        folder.delete(_manifest.NAME)
    folder.sweep(set())


class _Run:
    """One pass over the data."""

    def __init__(
        self, trunk: Any, folder: Folder, found: Manifest | None, dtype: str | None,
        targets: bool, keys: tuple[np.ndarray, bool] | None, batch_size: int, shard_bytes: int,
    ) -> None:  # fmt: skip
        self._trunk, self._folder, self._found = trunk, folder, found
        self._dtype, self._targets, self._keys = dtype, targets, keys
        self._batch_size, self._shard_bytes = batch_size, shard_bytes
        self._print = fingerprint(trunk)

    def over(self, data: Any, progress: bool) -> None:
        total = count(data)
        if self._keys is not None and total is not None and len(self._keys[0]) != total:
            raise FeatureError(f"{total} samples and {len(self._keys[0])} keys.")
        bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
        ahead = Ahead(batches(data, self._batch_size))
        try:
            done = self._skip(ahead, total)
            if done is None:
                return
            start, rest = done
            self._compute(ahead, rest, start, bar)
        finally:
            ahead.close()

    def _skip(self, stream: Ahead, total: int | None) -> tuple[int, Batch | None] | None:
        """Pass by what is in the store, and check that it was made of these very inputs.

        Returns:
            How many samples were passed by, and what is left of the last batch; None if there is
            nothing to do.
        """
        found = self._found
        if found is None or not found.shards:
            return 0, None
        if found.trunk != self._print:
            parts = [k for k in self._print if found.trunk.get(k) != self._print[k]]
            self._refuse([f"the {part} of the trunk" for part in parts])
        if found.complete and total is not None and total != found.rows:
            self._refuse([f"{found.rows} samples, now {total}"])
        passed = 0
        rest: Batch | None = None
        part: Batch | None = None
        for shard in found.shards:
            inputs, others = Checksums(), Checksums()
            missing = shard.rows
            while missing:
                batch = rest or next(stream, None)
                if batch is None:
                    self._refuse([f"{found.rows} samples, now {passed + shard.rows - missing}"])
                assert batch is not None
                part, rest = batch[:missing], batch[missing:] if len(batch) > missing else None
                inputs.add(part.x)
                others.add(labels(self._labels(part, passed + shard.rows - missing)[1]))
                missing -= len(part)
            samples = f"the samples {passed} to {passed + shard.rows - 1}"
            if inputs.values != shard.inputs:
                self._refuse(
                    [f"{samples} were made of other inputs, or in another order (shuffled data?)"]
                )
            # Others in number are other columns: that is said where columns are compared.
            if len(others.values) == len(shard.labels) and others.values != shard.labels:
                self._refuse([f"{samples} had other targets, sample weights or keys"])
            passed += shard.rows
            if found.complete and part is not None:
                self._check_columns(part)
                return None  # the first shard has to do: reading all the data may take long
        return passed, rest

    def _check_columns(self, batch: Batch) -> None:
        assert self._found is not None
        one = batch[:1]
        outputs = self._trunk.predict_on_batch(one.x)
        wrong = _manifest.differences(self._found, self._described(self._row(outputs, one, 0)))
        if wrong:
            self._refuse(wrong)

    def _refuse(self, wrong: list[str]) -> None:
        raise FeatureError(
            f"{self._folder} holds other features: {'; '.join(wrong)}. Give another folder, or "
            "write it anew: resume=False."
        )

    def _row(self, outputs: Any, batch: Batch, start: int) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the columns of some samples, features not cast yet."""
        kind, features = packed("features", outputs)
        layout, columns = self._labels(batch, start)
        return {"features": kind, **layout}, {**features, **columns}

    def _labels(self, batch: Batch, start: int) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the columns of some samples that are no features."""
        layout: dict[str, str] = {}
        columns: dict[str, Any] = {}
        parts = {"targets": batch.y, "weights": batch.w} if self._targets else {}
        for kind, part in parts.items():
            if part is not None:
                layout[kind], found = packed(kind, part)
                columns.update(found)
        if self._keys is not None:
            layout["keys"] = "one"
            columns["keys/"] = self._keys[0][start : start + len(batch)]
            if len(columns["keys/"]) != len(batch):
                raise FeatureError(f"There are more samples than the {len(self._keys[0])} keys.")
        return layout, columns

    def _cast(self, name: str, array: np.ndarray, start: int) -> np.ndarray:
        wanted = self._dtype
        floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        if not name.startswith("features/") or wanted is None or not floating:
            return array
        if array.dtype.name == wanted:
            return array
        with np.errstate(over="ignore"):
            cast = array.astype(dtype_of(wanted))
        if wanted == "float16" and not np.isfinite(cast).all() and np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(cast))[0][0])
            raise FeatureError(
                f"{name.removesuffix('/')} of sample {start + row} is up to "
                f"{np.abs(array[row]).max():g}, and float16 ends at 65504: take "
                'dtype="bfloat16" or "float32".'
            )
        return cast

    def _described(self, row: tuple[dict[str, str], dict[str, Any]]) -> Manifest:
        layout, arrays = row
        columns = {}
        for name, array in arrays.items():
            cast = self._cast(name, np.asarray(array)[:1], 0)
            kind = cast.dtype.name
            if kind not in DTYPES:
                raise FeatureError(
                    f"{name.removesuffix('/')} is {kind}, which a store cannot hold: give numbers."
                )
            text = name == "keys/" and self._keys is not None and self._keys[1]
            columns[name] = Column(tuple(cast.shape[1:]), kind, text)
        row_bytes = max(1, sum(c.bytes for c in columns.values()))
        return Manifest(
            columns, layout, self._print, self._batch_size,
            max(1, self._shard_bytes // row_bytes), versions(),
        )  # fmt: skip

    def _compute(self, stream: Ahead, rest: Batch | None, start: int, bar: Any) -> None:
        writer: Writer | None = None
        if bar is not None and start:
            bar.update(start, finalize=False)
        done = start
        try:
            while True:
                batch = rest or next(stream, None)
                rest = None
                if batch is None:
                    break
                outputs = self._trunk.predict_on_batch(batch.x)
                row = self._row(outputs, batch, done)
                if writer is None:
                    writer = self._writer(row)
                writer.put(row[1], batch.x, done)
                done += len(batch)
                if bar is not None:
                    bar.update(done, finalize=False)
            if writer is None:
                if self._found is None:
                    raise FeatureError("The data is empty.")
                self._found.replace(complete=True).save(self._folder)
                return
            writer.finish()
        finally:
            if writer is not None:
                writer.stop()
            if bar is not None:
                bar.update(done, finalize=True)

    def _writer(self, row: tuple[dict[str, str], dict[str, Any]]) -> Writer:
        described = self._described(row)
        if self._found is not None:
            wrong = _manifest.differences(self._found, described)
            if wrong:
                self._refuse(wrong)
            described = described.replace(
                shards=self._found.shards, rows_per_shard=self._found.rows_per_shard
            )
        self._folder.sweep({shard.file for shard in described.shards})
        return Writer(self._folder, described, self._cast)
