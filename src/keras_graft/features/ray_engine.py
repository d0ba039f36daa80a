"""The trunk on the actors of a Ray cluster: each writes shards, and the caller the manifest."""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_graft.errors import FeatureError
from keras_graft.features.building import Building, Checksums, Runner
from keras_graft.features.columns import Columns
from keras_graft.features.data import Batch, batches, count
from keras_graft.features.fingerprint import fingerprint
from keras_graft.features.manifest import Manifest, ShardEntry, Skipped, shard_name
from keras_graft.features.pipeline import Ahead, failed
from keras_graft.features.ray_rows import Rows
from keras_graft.features.remote import folder_at
from keras_graft.features.run import Run


@dataclass(frozen=True)
class RayOptions:
    """How `kg.features.compute` uses a Ray cluster.

    The cluster is the one that `ray.init` was told, or one of this machine's own. Reading a Ray
    dataset takes processors besides those of the actors: leave some.

    Attributes:
        actors: How many hold the trunk.
        cpus: Processors an actor.
        gpus: GPUs an actor.
        backend: The actors' backend of Keras; None: the caller's.
        inputs: Of a Ray dataset: the column that the trunk takes; a list or dict of names for
            several. None: the only column, or those named as the trunk's inputs.
        targets: The column, or columns, of targets.
        weights: The column of sample weights.
    """

    actors: int = 2
    cpus: float = 1
    gpus: float = 0
    backend: str | None = None
    inputs: Any = None
    targets: Any = None
    weights: str | None = None


def options(given: RayOptions | Mapping[str, Any] | None) -> RayOptions:
    """Return the options that a user gave.

    Raises:
        FeatureError: If there are no such options, or if Ray is not there.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise FeatureError(
            "engine=\"ray\" needs Ray, which is an extra: pip install 'keras-graft[ray]'"
        ) from error
    try:
        return given if isinstance(given, RayOptions) else RayOptions(**(given or {}))
    except TypeError as error:
        known = ", ".join(RayOptions.__dataclass_fields__)
        raise FeatureError(f"ray={given!r}: {error}. There are {known}.") from error


def over(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    """Run the trunk over data on actors.

    Args:
        run: What there is.
        data: A Ray dataset, or what the local engine takes. The latter goes into Ray's object
            store first, which moves to the disk what does not fit.
        how: The options.
        progress: Whether to show a bar.
    """
    import ray.data

    if isinstance(data, ray.data.Dataset):
        _dataset(run, data, how, progress)
    else:
        _local(run, data, how, progress)


def _local(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    import ray

    total = count(data)
    run.check_keys(total)
    ahead = Ahead(batches(data, run.batch_size))
    try:
        passed = run.passed(ahead, data)
        if passed is None:
            return
        done, rest = passed
        first = rest or next(ahead, None)
        if first is None:
            return run.end()
        manifest = run.described(run.runner()(first)[0], first, done)
        run.sweep()
        puts, shards, starts = [], [], [done]
        batch: Batch | None = first
        while batch is not None:
            shards.append(batch)
            samples = sum(map(len, shards))
            batch = next(ahead, None)
            if samples >= manifest.rows_per_shard or batch is None:
                puts.append(ray.put(shards))
                starts.append(starts[-1] + samples)
                shards = []
    finally:
        ahead.close()
    run.check_keys(starts[-1])
    number = len(manifest.shards)
    rows: Any = [{"shard": i} for i in range(len(puts))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    work = _Work(how.backend, str(run.folder), run.columns, manifest, run.skip, number,
                 puts=puts, starts=starts)  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, total, ())


def _dataset(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    if run.columns.keys is not None:
        raise FeatureError(
            "keys belong to samples in an order that the caller knows. Of a Ray dataset, keep a "
            "column of numbers with the targets: RayOptions(targets={'y': 'label', 'id': 'id'})."
        )
    found = run.found
    looked = run.compared if found is not None and found.complete else run.batch_size
    block = data.take_batch(looked, batch_format="numpy")
    rows = Rows.of(run.trunk, block, how.inputs, how.targets, how.weights, run.batch_size)
    first = [batch for batch, _ in rows.batches(block)]
    if found is not None and found.complete:
        run.passed(iter(first))
        return
    known = found.shards if found is not None else ()
    if found is not None:
        run.check_found(None)
    manifest = run.described(run.runner()(first[0])[0], first[0], 0).replace(shards=())
    run.sweep()
    # Whole batches, as the local engine's shards are.
    batch = run.batch_size
    size = known[0].samples if known else -(-manifest.rows_per_shard // batch) * batch
    dataset = data.repartition(target_num_rows_per_block=size, strict=True)
    work = _Work(
        how.backend, str(run.folder), run.columns, manifest, run.skip, 0, rows=rows,
        known=tuple(_moved(s, -at) for s, at in zip(known, _starts(known), strict=True)),
    )  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, None, known)


def _collect(
    run: Run, dataset: Any, work: _Work, how: RayOptions, progress: bool, manifest: Manifest,
    total: int | None, known: tuple[ShardEntry, ...],
) -> None:  # fmt: skip
    """Let actors write the shards, in order, and write the manifest."""
    import ray

    backend = how.backend or keras.backend.backend()
    manifest = manifest.replace(versions={**manifest.versions, "backend": backend})
    bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
    mapped = dataset.map_batches(
        Worker, fn_constructor_args=(work, ray.put(_file(run.trunk)), run.print), batch_size=None,
        batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=how.actors),
        num_cpus=how.cpus, num_gpus=how.gpus,
        runtime_env={"env_vars": {"KERAS_BACKEND": backend}},
    )  # fmt: skip
    with _ordered(mapped):
        for number, row in enumerate(mapped.iter_rows()):
            entry = ShardEntry.of(json.loads(row["entry"]))
            start = manifest.samples
            if number < len(known):
                run.check_same(known[number], start, entry.inputs, entry.labels)
                entry = known[number]
            elif work.rows is not None:
                entry = _moved(entry, start)
            if entry.skipped and not run.skip:
                raise failed(entry.skipped[0])
            if number == 0 and run.folder.sizes().get(entry.file) != entry.bytes:
                raise FeatureError(
                    f"An actor wrote {entry.file!r}, and it is not in {run.folder}: give a folder "
                    'that all machines share, or a URL: store="s3://bucket/features".'
                )
            manifest = manifest.replace(shards=(*manifest.shards, entry))
            manifest.save(run.folder)
            if bar is not None:
                bar.update(manifest.samples, finalize=False)
    if len(manifest.shards) < len(known):
        assert run.found is not None
        run.refuse([f"{run.found.samples} samples, now {manifest.samples}"])
    manifest.replace(complete=True).save(run.folder)
    run.folder.sweep({shard.file for shard in manifest.shards})  # what a killed actor left
    if bar is not None:
        bar.update(manifest.samples, finalize=True)


def _starts(shards: Sequence[ShardEntry]) -> list[int]:
    return [sum(shard.samples for shard in shards[:i]) for i in range(len(shards))]


def _moved(entry: ShardEntry, by: int) -> ShardEntry:
    """Return what is said of a shard, with its samples counted from elsewhere."""
    return replace(entry, skipped=tuple(Skipped(s.index + by, s.reason) for s in entry.skipped))


@contextlib.contextmanager
def _ordered(dataset: Any) -> Iterator[None]:
    """Let shards come in the order of the data; the settings are shared with the user's dataset."""
    context = dataset.context
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


def _file(trunk: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.keras"
        trunk.save(path)
        return path.read_bytes()


@dataclass
class _Work:
    """What an actor needs to know beside the trunk."""

    backend: str | None
    store: str
    columns: Columns
    manifest: Manifest
    skip: bool
    number: int
    puts: Any = ()
    starts: Any = ()
    rows: Rows | None = None
    known: tuple[ShardEntry, ...] = ()


class Worker:
    """An actor: gets a block of samples, writes a shard, says what the manifest is to say of it.

    Killed, it is started anew, and gets the blocks again that it had not dealt with.
    """

    def __init__(self, work: _Work, file: Any, print: dict[str, str]) -> None:
        import ray

        self._work, self._folder = work, folder_at(work.store)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trunk.keras"
            path.write_bytes(ray.get(file))
            # The caller's own file, so what Lambda layers hold in it may run.
            trunk: Any = keras.saving.load_model(path, compile=False, safe_mode=False)
        now = fingerprint(trunk)
        if now != print:
            raise FeatureError(f"The trunk is another one once it is loaded: {print}, now {now}.")
        self._run = Runner(trunk, True)  # it has worked where the actors were started

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        work = self._work
        if work.rows is None:
            import ray

            number = int(block["shard"][0])
            found = [(batch, {}) for batch in ray.get(work.puts[number])]
            name, start = shard_name(work.number + number), work.starts[number]
        else:
            found = list(work.rows.batches(block))
            name, start = f"shard-{uuid.uuid4().hex}.safetensors", 0
            for entry in self._done(found):
                return _told(entry)
        building = Building(work.columns, work.manifest.columns)
        for batch, bad in found:
            good = [i for i in range(len(batch)) if i not in bad]
            outputs, lost = self._run(batch.rows(good)) if good else (None, {})
            lost = {**bad, **{good[i]: why for i, why in lost.items()}}
            building.add(outputs, batch, start, lost)
            start += len(batch)
        pieces, entry = building.finish(name)
        if work.skip or not entry.skipped:
            self._folder.write(name, *pieces)
        return _told(entry)

    def _done(self, found: list[tuple[Batch, dict[int, str]]]) -> Iterator[ShardEntry]:
        """Yield what is known of a shard of these very samples."""
        if not self._work.known:
            return
        inputs, labels = Checksums(), Checksums()
        for batch, _ in found:
            inputs.add(batch.x)
            labels.add(list(self._work.columns.labels(batch, 0)[1].values()))
        for entry in self._work.known:
            if (entry.inputs, entry.labels) == (inputs.values, labels.values):
                yield entry


def _told(entry: ShardEntry) -> dict[str, Any]:
    return {"entry": np.array([json.dumps(asdict(entry))], object)}
