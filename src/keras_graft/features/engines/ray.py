"""Run the trunk on the actors of a Ray cluster: they write the shards."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft import advice
from keras_graft.errors import FeatureError
from keras_graft.features.engines.ray_actors import (
    actors,
    check_skipped,
    ended,
    entry_of,
    environment,
    made_by,
    tried,
)
from keras_graft.features.engines.ray_actors import shipped as _shipped
from keras_graft.features.engines.ray_local import compute as local
from keras_graft.features.engines.ray_options import RayOptions
from keras_graft.features.engines.ray_rows import Rows
from keras_graft.features.engines.ray_worker import Work, Worker, moved, not_in
from keras_graft.features.engines.run import Run
from keras_graft.features.store.entries import Shards
from keras_graft.features.store.manifest import Manifest
from keras_graft.tables import counted


def over(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    """Run the trunk over data on actors.

    Args:
        run: The run.
        data: A Ray dataset, or any data that the local engine takes. Of that, two shards
            for each actor are in Ray's object store at a time.
        how: The options.
        progress: Whether to show a bar.
    """
    import ray.data

    if isinstance(data, ray.data.Dataset):
        _dataset(run, data, how, progress)
    else:
        local(run, data, how, progress)


def _dataset(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    if run.columns.keys is not None:
        raise FeatureError(
            "keys need samples in a known order, which a Ray dataset does not have. Keep a column of "
            "numbers with the targets instead: RayOptions(targets={'y': 'label', 'id': 'id'})."
        )
    found = run.found
    looked = run.compared if found is not None and found.complete else run.batch_size
    try:
        with _ordered(data):
            block = data.take_batch(looked, batch_format="numpy")
    except ValueError as error:
        if "empty" not in str(error):
            raise
        raise FeatureError("The data is empty.") from error
    rows = Rows.of(run.trunk, block, how.inputs, how.targets, how.weights, run.batch_size)
    first = [batch for batch, _ in rows.batches(block)]
    if found is not None and found.complete:
        run.rest(iter(first))
        return
    known = found.shards if found is not None else Shards()
    if found is not None:
        run.check_found(None)
    lengths = known.array["rows"] + known.array["left"]
    if len(set(lengths[:-1].tolist())) > 1:
        raise FeatureError(
            f"{run.folder}: its shards differ in length, because batches did, but Ray gives "
            "blocks of one length. Finish it with the data that it was started with, or compute it again: "
            f"{advice.option('resume', False)}."
        )
    run.columns.check(first[0])
    manifest = run.described(run.runner()(first[0])[0], first[0])
    # Whole batches, as in the shards of the local engine.
    batch = run.batch_size
    size = known[0].samples if known else -(-manifest.rows_per_shard // batch) * batch
    dataset = data.repartition(target_num_rows_per_block=size, strict=True)
    work = Work(
        run.folder.address, run.columns, manifest, run.skip, tried(first[0]), rows=rows,
        known=known,
    )  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, size)


def _collect(
    run: Run, dataset: Any, work: Work, how: RayOptions, progress: bool, manifest: Manifest, rows: int,
) -> None:  # fmt: skip
    """Let actors write the shards of a Ray dataset, and write their names, in order.

    Actors cannot add these to the journal: Ray gives them blocks without their numbers, to whom is
    free, and the samples of a shard are numbered from the end of the one before it, which may be
    in the making on another machine.

    Args:
        run: The run.
        dataset: The blocks for the actors.
        work: What the actors need to know.
        how: The options.
        progress: Whether to show a bar.
        manifest: The manifest of what is written already.
        rows: How many rows of the dataset an actor gets at a time.
    """
    import ray

    manifest = made_by(manifest, how)
    bar = keras.utils.Progbar(None, unit_name="sample") if progress else None
    trunk, digests = _shipped(run.trunk)
    journal = run.location.begin(manifest)
    mapped = dataset.map_batches(
        Worker, fn_constructor_args=(work, ray.put(trunk), digests), batch_size=rows,
        batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=actors(how, work)),
        num_cpus=how.cpus, num_gpus=how.gpus, runtime_env=environment(how),
    )  # fmt: skip
    # Blocks that are in the store already are only compared.
    known = deque(manifest.shards)
    start, first = 0 if known else manifest.samples, True
    with _ordered(mapped):
        for row in mapped.iter_rows():
            entry = entry_of(row["told"], f" (counted from sample {start} on)")
            if known:
                there = known.popleft()
                run.check_same(there, start, entry.inputs, entry.labels)
                start += there.samples
                continue
            entry = moved(entry, start)
            check_skipped(run, entry)
            if first and run.folder.sizes().get(entry.file) != entry.bytes:
                raise FeatureError(f"An actor wrote {entry.file!r}, and it is {not_in(run.folder)}")
            first = False
            journal.add(entry)
            start += entry.samples
            if bar is not None:
                bar.update(start, finalize=False)
    if known:
        assert run.found is not None
        run.refuse([f"{counted(run.found.samples, 'sample')}, now {start:,}"])
    ended(run, journal)
    if bar is not None:
        bar.update(start, finalize=True)


@contextlib.contextmanager
def _ordered(dataset: Any) -> Iterator[None]:
    """Keep results in the order of the data; put the user's settings back afterwards."""
    context = dataset.context
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before
