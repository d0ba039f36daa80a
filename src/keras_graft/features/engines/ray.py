"""Run the trunk on the actors of a Ray cluster: they write shards, the caller the manifest."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import keras

from keras_graft import _keras, advice
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, count
from keras_graft.features.engines.pipeline import failed, read_ahead
from keras_graft.features.engines.ray_rows import Rows
from keras_graft.features.engines.ray_worker import Work, Worker, loaded, moved
from keras_graft.features.engines.run import Run
from keras_graft.features.fixed_trunk import inner_layers
from keras_graft.features.store.entries import ShardEntry, Shards
from keras_graft.features.store.location import leftovers
from keras_graft.features.store.manifest import Manifest
from keras_graft.model.fingerprint import fingerprint
from keras_graft.printable import shown, words_of
from keras_graft.tables import counted


@dataclass(frozen=True)
class RayOptions:
    """How `kg.features.compute` uses a Ray cluster.

    Uses the cluster given to `ray.init`, or starts a local one. Reading a Ray dataset needs
    processors that the actors do not take: leave some.

    Attributes:
        actors: The number of actors; each holds the trunk. None: two, or one if there are too few
            processors.
        cpus: Processors per actor.
        gpus: GPUs per actor.
        backend: The actors' backend of Keras; None: the caller's.
        inputs: For a Ray dataset, the column that the trunk takes; for several inputs a list or
            dict of names. None: the only column, or the columns named like the trunk's inputs.
        targets: The column of targets, or several.
        weights: The column of sample weights.
    """

    actors: int | None = None
    cpus: float = 1
    gpus: float = 0
    backend: str | None = None
    inputs: Any = None
    targets: Any = None
    weights: str | None = None


def options(given: RayOptions | Mapping[str, Any] | None) -> RayOptions:
    """Return the options that a user gave.

    Raises:
        FeatureError: If an option is unknown, or if Ray is not installed.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise FeatureError(
            "engine=\"ray\" needs Ray, which is an extra: pip install 'keras-graft[ray]'"
        ) from error
    try:
        found = given if isinstance(given, RayOptions) else RayOptions(**(given or {}))
    except TypeError as error:
        known = ", ".join(RayOptions.__dataclass_fields__)
        raise FeatureError(f"ray={given!r}: {words_of(error)}. The options are {known}.") from error
    whole = isinstance(found.actors, Integral) and not isinstance(found.actors, bool)
    if found.actors is not None and not (whole and found.actors > 0):
        raise FeatureError(
            f"ray: actors must be a whole number, 1 or more, got {shown(found.actors)}."
        )
    if not all(isinstance(n, Real) and n >= 0 for n in (found.cpus, found.gpus)):
        raise FeatureError(
            f"ray: cpus and gpus must be numbers, got {shown(found.cpus)}, {shown(found.gpus)}."
        )
    if found.backend not in (None, "jax", "tensorflow", "torch"):
        raise FeatureError(
            f'ray: backend must be "jax", "tensorflow" or "torch", got {shown(found.backend)}.'
        )
    return found


def over(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    """Run the trunk over data on actors.

    Args:
        run: The run.
        data: A Ray dataset, or any data that the local engine takes. That is first copied to Ray's
            object store, which uses the disk if memory is full.
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
    ahead = read_ahead(run.stream(data))
    try:
        rest = run.rest(ahead, data)
        if rest is None:
            return
        stream = iter(rest)
        first = next(stream, None)
        if first is None:
            run.check_ended(rest, None)
            return run.end()
        manifest = run.described(run.runner()(first)[0], first)
        puts, shards, starts = [], [], [0 if run.found is None else run.found.samples]
        batch: Batch | None = first
        while batch is not None:
            shards.append(batch)
            samples = sum(map(len, shards))
            batch = next(stream, None)
            if samples >= manifest.rows_per_shard or batch is None:
                puts.append(ray.put(shards))
                starts.append(starts[-1] + samples)
                shards = []
    finally:
        ahead.close()
    run.check_ended(rest, None)
    run.check_keys(starts[-1])
    number = manifest.shards.next_number
    rows: Any = [{"shard": i} for i in range(len(puts))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    work = Work(run.folder.address, replace(run.columns, keys=None), manifest, run.skip, _tried(first),
                 number=number, puts=puts, starts=starts)  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, total, 1)


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
        run.folder.address, run.columns, manifest, run.skip, _tried(first[0]), rows=rows,
        known=known,
    )  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, None, size)


def _collect(
    run: Run, dataset: Any, work: Work, how: RayOptions, progress: bool, manifest: Manifest,
    total: int | None, rows: int,
) -> None:  # fmt: skip
    """Let actors write the shards, in order, and write the manifest.

    Args:
        run: The run.
        dataset: The blocks for the actors.
        work: What the actors need to know.
        how: The options.
        progress: Whether to show a bar.
        manifest: The manifest of what is written already.
        total: The number of samples, if it is known.
        rows: How many rows of the dataset an actor gets at a time.
    """
    import ray

    backend = how.backend or keras.backend.backend()
    manifest = manifest.replace(versions={**manifest.versions, "backend": backend})
    bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
    trunk, digests = _shipped(run.trunk)
    journal = run.location.begin(manifest)
    mapped = dataset.map_batches(
        Worker, fn_constructor_args=(work, ray.put(trunk), digests), batch_size=rows,
        batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=_actors(how, work)),
        num_cpus=how.cpus, num_gpus=how.gpus,
        runtime_env={"env_vars": {"KERAS_BACKEND": backend}},
    )  # fmt: skip
    # Blocks that are in the store already are only compared.
    known = deque(manifest.shards if work.rows is not None else ())
    start, first = 0 if known else manifest.samples, True
    with _ordered(mapped):
        for row in mapped.iter_rows():
            told = json.loads(row["told"])
            if "wrong" in told:
                where = f" (counted from sample {start} on)" if work.rows is not None else ""
                raise FeatureError(told["wrong"] + where)
            entry = ShardEntry.of(told)
            if known:
                there = known.popleft()
                run.check_same(there, start, entry.inputs, entry.labels)
                start += there.samples
                continue
            if work.rows is not None:
                entry = moved(entry, start)
            if entry.skipped and not run.skip:
                raise failed(entry.skipped[0])
            if first and run.folder.sizes().get(entry.file) != entry.bytes:
                raise FeatureError(
                    f"An actor wrote {entry.file!r}, and it is not in {run.folder}: give a folder "
                    'that all machines share, or a URL: store="s3://bucket/features".'
                )
            first = False
            journal.add(entry)
            start += entry.samples
            if bar is not None:
                bar.update(start, finalize=False)
    if known:
        assert run.found is not None
        run.refuse([f"{counted(run.found.samples, 'sample')}, now {start:,}"])
    journal.finish()
    for name in leftovers(run.folder, journal.manifest):  # left by killed actors
        run.folder.delete(name)
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


def _tried(batch: Batch) -> Batch:
    """Return one sample for actors to try: if it fails, the cause is not a single sample."""
    return batch[:1]


def _actors(how: RayOptions, work: Work) -> int:
    """Return the number of actors; warn if they leave no processor to read the data."""
    import ray

    there = ray.cluster_resources().get("CPU", 0)
    left = there - (1 if work.rows is not None else 0)
    if how.actors is None:
        return max(1, min(2, int(left / how.cpus))) if how.cpus else 2
    if how.actors * how.cpus > left:
        warnings.warn(
            f"{how.actors} actors with {how.cpus:g} processors each leave none of the cluster's "
            f"{there:g} to read the data: unless the cluster grows, this waits forever. Take "
            "fewer: ray={'actors': ...}, or {'cpus': 0.5}.",
            stacklevel=2,
        )
    return how.actors


def _imported(thing: Any) -> bool:
    """Whether an actor can import something without being given it."""
    home = getattr(thing, "__module__", None) or ""
    return home.partition(".")[0] in ("keras", "keras_graft")


def _shipped(trunk: Any) -> tuple[tuple[bytes, dict[str, Any]], dict[str, str]]:
    """Return what actors load the trunk from, and the fingerprint that it has after loading.

    Raises:
        FeatureError: If it cannot be loaded here either.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.keras"
        _keras.save(trunk, path)
        file = path.read_bytes()
        config = zipfile.ZipFile(path).read("config.json").decode()
    # Only registered code that the trunk needs: actors may not be able to import the rest.
    custom = {
        name: thing
        for name, thing in keras.saving.get_custom_objects().items()
        if json.dumps(name) in config and not _imported(thing)
    }
    for layer in inner_layers(trunk):
        if not _imported(type(layer)):
            custom.setdefault(type(layer).__name__, type(layer))
    try:
        # Saving may change weights: Keras merges LoRA.
        return (file, custom), fingerprint(loaded(file, custom))
    except Exception as error:
        raise FeatureError(
            f"{trunk.name!r} cannot be loaded from the file that it was saved to, as actors do: "
            f'{words_of(error)} With engine="local" it needs no file.'
        ) from error
