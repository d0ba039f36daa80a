"""The trunk on the actors of a Ray cluster: each writes shards, and the caller the manifest."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch, batches, count
from keras_graft.features.fingerprint import fingerprint
from keras_graft.features.fixed import inner_layers
from keras_graft.features.manifest import Manifest, ShardEntry
from keras_graft.features.pipeline import failed, read_ahead
from keras_graft.features.place import leftovers
from keras_graft.features.ray_rows import Rows
from keras_graft.features.ray_worker import Work, Worker, loaded, moved
from keras_graft.features.run import Run
from keras_graft.printable import shown, words_of


@dataclass(frozen=True)
class RayOptions:
    """How `kg.features.compute` uses a Ray cluster.

    The cluster is the one that `ray.init` was told, or one of this machine's own. Reading a Ray
    dataset takes processors besides those of the actors: leave some.

    Attributes:
        actors: How many hold the trunk. None: two, or one where there is no room for two.
        cpus: Processors an actor.
        gpus: GPUs an actor.
        backend: The actors' backend of Keras; None: the caller's.
        inputs: Of a Ray dataset: the column that the trunk takes; a list or dict of names for
            several. None: the only column, or those named as the trunk's inputs.
        targets: The column, or columns, of targets.
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
        FeatureError: If there are no such options, or if Ray is not there.
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
        raise FeatureError(f"ray={given!r}: {words_of(error)}. There are {known}.") from error
    whole = isinstance(found.actors, Integral) and not isinstance(found.actors, bool)
    if found.actors is not None and not (whole and found.actors > 0):
        raise FeatureError(f"ray: actors is a whole number, 1 or more, got {shown(found.actors)}.")
    if not all(isinstance(n, Real) and n >= 0 for n in (found.cpus, found.gpus)):
        raise FeatureError(
            f"ray: cpus and gpus are numbers, got {shown(found.cpus)}, {shown(found.gpus)}."
        )
    if found.backend not in (None, "jax", "tensorflow", "torch"):
        raise FeatureError(
            f'ray: backend is "jax", "tensorflow" or "torch", got {shown(found.backend)}.'
        )
    return found


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
    ahead = read_ahead(batches(data, run.batch_size))
    try:
        passed = run.passed(ahead, data)
        if passed is None:
            return
        done, rest = passed
        first = rest or next(ahead, None)
        if first is None:
            return run.end()
        run.columns.check(first, done)
        manifest = run.described(run.runner()(first)[0], first, done)
        run.place.begin(manifest)
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
    work = Work(run.folder.address, run.columns, manifest, run.skip, _tried(first),
                 number=number, puts=puts, starts=starts)  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, total, 1)


def _dataset(run: Run, data: Any, how: RayOptions, progress: bool) -> None:
    if run.columns.keys is not None:
        raise FeatureError(
            "keys belong to samples in an order that the caller knows. Of a Ray dataset, keep a "
            "column of numbers with the targets: RayOptions(targets={'y': 'label', 'id': 'id'})."
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
        run.passed(iter(first))
        return
    known = found.shards if found is not None else ()
    if found is not None:
        run.check_found(None)
    if len({shard.samples for shard in known[:-1]}) > 1:
        raise FeatureError(
            f"{run.folder}: its shards are of uneven length, as batches of uneven length make them, "
            "and Ray hands out blocks of one: go on with the data that it was begun with, or write "
            "it anew: resume=False."
        )
    run.columns.check(first[0], 0)
    manifest = run.described(run.runner()(first[0])[0], first[0], 0)
    run.place.begin(manifest)
    # Whole batches, as the local engine's shards are.
    batch = run.batch_size
    size = known[0].samples if known else -(-manifest.rows_per_shard // batch) * batch
    dataset = data.repartition(target_num_rows_per_block=size, strict=True)
    work = Work(
        run.folder.address, run.columns, manifest, run.skip, _tried(first[0]), rows=rows,
        known=tuple(moved(s, -at) for s, at in zip(known, _starts(known), strict=True)),
    )  # fmt: skip
    _collect(run, dataset, work, how, progress, manifest, None, size)


def _collect(
    run: Run, dataset: Any, work: Work, how: RayOptions, progress: bool, manifest: Manifest,
    total: int | None, rows: int,
) -> None:  # fmt: skip
    """Let actors write the shards, in order, and write the manifest.

    Args:
        run: What there is.
        dataset: What the actors get.
        work: What they know.
        how: The options.
        progress: Whether to show a bar.
        manifest: What is written already.
        total: How many samples there are, if that is known.
        rows: How many rows of the dataset an actor gets at a time.
    """
    import ray

    backend = how.backend or keras.backend.backend()
    manifest = manifest.replace(versions={**manifest.versions, "backend": backend})
    bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
    trunk, print = _shipped(run.trunk)
    mapped = dataset.map_batches(
        Worker, fn_constructor_args=(work, ray.put(trunk), print), batch_size=rows,
        batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=_actors(how, work)),
        num_cpus=how.cpus, num_gpus=how.gpus,
        runtime_env={"env_vars": {"KERAS_BACKEND": backend}},
    )  # fmt: skip
    # Blocks of what is in the store come again, and are only compared.
    known = list(manifest.shards) if work.rows is not None else []
    start, first = 0 if known else manifest.samples, True
    with _ordered(mapped):
        for row in mapped.iter_rows():
            told = json.loads(row["told"])
            if "wrong" in told:
                where = f" (counted from sample {start} on)" if work.rows is not None else ""
                raise FeatureError(told["wrong"] + where)
            entry = ShardEntry.of(told)
            if known:
                there = known.pop(0)
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
            manifest = manifest.replace(shards=(*manifest.shards, entry))
            start += entry.samples
            manifest.save(run.folder)
            if bar is not None:
                bar.update(manifest.samples, finalize=False)
    if known:
        assert run.found is not None
        run.refuse([f"{run.found.samples} samples, now {start}"])
    manifest.replace(complete=True).save(run.folder)
    for name in leftovers(run.folder, manifest):  # by a killed actor
        run.folder.delete(name)
    if bar is not None:
        bar.update(manifest.samples, finalize=True)


def _starts(shards: Sequence[ShardEntry]) -> list[int]:
    return [sum(shard.samples for shard in shards[:i]) for i in range(len(shards))]


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


def _tried(batch: Batch) -> Batch:
    """Return a sample for actors to try: what fails there is no matter of samples."""
    return batch[:1]


def _actors(how: RayOptions, work: Work) -> int:
    """Return how many actors there are to be; say so if they leave nothing to read the data with."""
    import ray

    there = ray.cluster_resources().get("CPU", 0)
    left = there - (1 if work.rows is not None else 0)
    if how.actors is None:
        return max(1, min(2, int(left / how.cpus))) if how.cpus else 2
    if how.actors * how.cpus > left:
        warnings.warn(
            f"{how.actors} actors with {how.cpus:g} processors each leave none of the cluster's "
            f"{there:g} to read the data with: unless the cluster grows, this waits for ever. Take "
            "fewer: ray={'actors': ...}, or {'cpus': 0.5}.",
            stacklevel=2,
        )
    return how.actors


def _imported(thing: Any) -> bool:
    """Whether an actor has something at any rate."""
    home = getattr(thing, "__module__", None) or ""
    return home.partition(".")[0] in ("keras", "keras_graft")


def _shipped(trunk: Any) -> tuple[tuple[bytes, dict[str, Any]], dict[str, str]]:
    """Return what actors load the trunk from, and the fingerprint that it has then.

    Raises:
        FeatureError: If it cannot be loaded here either.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.keras"
        with _keras.without_tensorflow():
            trunk.save(path)
        file = path.read_bytes()
        config = zipfile.ZipFile(path).read("config.json").decode()
    # Of what is registered, what the trunk needs: the code of the rest may not be there for actors.
    custom = {
        name: thing
        for name, thing in keras.saving.get_custom_objects().items()
        if json.dumps(name) in config and not _imported(thing)
    }
    for layer in inner_layers(trunk):
        if not _imported(type(layer)):
            custom.setdefault(type(layer).__name__, type(layer))
    try:
        # What is merged in a file, as LoRA is, is not what it was.
        return (file, custom), fingerprint(loaded(file, custom))
    except Exception as error:
        raise FeatureError(
            f"{trunk.name!r} cannot be loaded from the file that it was saved to, as actors do: "
            f'{words_of(error)} With engine="local" it needs no file.'
        ) from error
