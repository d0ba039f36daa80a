"""Run a trunk once over data, and store its outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Literal

import keras

from keras_graft.errors import FeatureError
from keras_graft.features.augment import AugmentedTrunk
from keras_graft.features.data import count
from keras_graft.features.engines import ray as ray_engine
from keras_graft.features.engines import ray_options
from keras_graft.features.engines.pipeline import Beside, Writer, read_ahead
from keras_graft.features.engines.ray_options import RayOptions
from keras_graft.features.engines.run import Run
from keras_graft.features.fixed_trunk import check_fixed
from keras_graft.features.sources.given import opened
from keras_graft.features.sources.image_folder import ImageFolder
from keras_graft.features.store.columns import Columns, coded
from keras_graft.features.store.keep import check_sizes
from keras_graft.features.store.location import location
from keras_graft.features.store.remote import folder_at
from keras_graft.features.store.store import FeatureStore
from keras_graft.model.fingerprint import fingerprint
from keras_graft.printable import shown
from keras_graft.tables import counted

_SHARD = 32 << 20


def compute(
    trunk: Any,
    data: Any,
    store: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    dtype: Literal["float16", "bfloat16", "float32"] | None = None,
    targets: bool = True,
    keys: Iterable[Any] | None = None,
    frozen: bool = False,
    resume: bool = True,
    progress: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    engine: Literal["local", "ray"] = "local",
    ray: RayOptions | Mapping[str, Any] | None = None,
    shard_bytes: int = _SHARD,
    views: int = 0,
    seed: int = 0,
) -> FeatureStore:
    """Run a trunk once over data, and store its outputs on disk.

    Memory stays bounded, and writing overlaps computing. If the process is killed, at most the
    last minute is lost; Ctrl-C loses nothing. Called again, it computes the samples that are
    missing, with no sample repeated. Each is stored together with its own target, so the data may
    come in another order in each pass: samples are known by a hash of their inputs.

    A complete store is not computed again if it is of this trunk and data. To decide that, the
    inputs and targets of the first shard are compared, or of the first batch if that comes in
    another order, and for data in whole arrays in the same order the number of samples and all
    targets, sample weights and keys. Inputs that changed elsewhere are not noticed: use
    `resume=False` then.

    Args:
        trunk: A Keras model, with one output or a dict or list of outputs: `kg.extract` gives
            several in one pass. A mask that Keras attaches to an output is not stored:
            `kg.split(model, at, complete=True)` makes it an output too, and so does
            `kg.features.fit_head(..., complete=True)`.
        data: Arrays, `(x, y)`, `(x, y, weights)`, tables of pandas, a `tf.data.Dataset`, a torch
            `DataLoader` or `Dataset`, a Keras `PyDataset` or any iterable of batches; the path of a
            folder of images (see `kg.features.ImageFolder`); with `engine="ray"` a Ray dataset too.
        store: The folder: a local path, or a URL that fsspec opens (`"s3://bucket/features"`).
            There a shard is one object, written before the manifest that names it.
        batch_size: For arrays, a torch `Dataset` and a path; other data comes in its own batches.
        dtype: The dtype in which floating features are stored; None: the trunk's own.
        targets: Store targets and sample weights too, if the data has them.
        keys: One integer or text for each sample, in the order of the data. For a folder of
            images they are the paths of the images.
        frozen: Assert that the trunk's weights will stay fixed even though they are marked
            trainable.
        resume: Resume the store that is there; if False, replace it.
        progress: Show a bar with the rate and the time left.
        on_error: What to do with a sample on which the trunk fails, or whose features overflow
            the dtype. `"raise"` names it; `"skip"` leaves it out, and lists it in
            `store.manifest.skipped`.
        engine: `"local"`, or `"ray"` to use the actors of a Ray cluster (`pip install
            'keras-graft[ray]'`). The store is the same, at a URL or in a folder that all machines
            share.
        ray: How many actors, with which backend and GPUs: a `RayOptions` or a dict.
        shard_bytes: The approximate size of a shard. It is smaller where computing it takes more
            than a minute.
        views: How many augmented views of each sample to store, beside its features without
            augmentation. For these the layers of the trunk that augment (`RandomFlip`,
            `GaussianNoise`) draw random numbers, frozen or not, while all other layers stay as
            they are. It takes as many more passes. `FeatureDataset` gives one view of each sample
            in each epoch.
        seed: The seed for the views.

    Returns:
        The store, complete.

    Raises:
        FeatureError: If the trunk is not a fixed function (`kg.freeze` makes it one); if a sample
            fails; or if the store has a different trunk, data or dtype. The error says what
            differs.

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
            f'dtype must be "float16", "bfloat16", "float32" or None, got {shown(dtype)}.'
        )
    for name, number in (("batch_size", batch_size), ("shard_bytes", shard_bytes)):
        if not isinstance(number, Integral) or not 1 <= number < 1 << 62:
            raise FeatureError(f"{name} must be a whole number, 1 or more, got {shown(number)}.")
    if on_error not in ("raise", "skip") or engine not in ("local", "ray"):
        raise FeatureError(
            f'on_error must be "raise" or "skip", got {shown(on_error)}; engine must be "local" or '
            f'"ray", got {shown(engine)}.'
        )
    if not isinstance(views, Integral) or not 0 <= views < 1000 or (views and engine == "ray"):
        raise FeatureError(
            f"views must be a whole number from 0 to 999, got {shown(views)}"
            + (', and engine="ray" takes none: use engine="local"' if engine == "ray" else "") + "."
        )  # fmt: skip
    if not isinstance(seed, Integral) or seed < 0:
        raise FeatureError(f"seed must be a whole number, 0 or more, got {shown(seed)}.")
    data = opened(data, trunk, int(batch_size))
    if keys is None and isinstance(data, ImageFolder):
        keys = data.keys
    columns = Columns(dtype, targets, coded(keys), int(views))
    options = ray_options.options(ray) if engine == "ray" else None
    if engine == "local" and type(data).__module__ == "ray.data.dataset":
        raise FeatureError('A Ray dataset needs engine="ray".')
    augmented = AugmentedTrunk(trunk, int(views), seed) if views else None
    plain = augmented.plain if augmented else trunk
    check_fixed(plain, frozen)
    digests = {**fingerprint(plain), **({"views": augmented.digest} if augmented else {})}
    folder = folder_at(store)
    location(folder, resume)  # before locking, which makes a file
    lock = folder.lock()
    if lock is None:
        raise FeatureError(f"Another process is writing to {folder}: wait for it, or stop it.")
    with lock:
        there = location(folder, resume)
        if there.found is not None:
            check_sizes(folder, there.found)
        run = Run(
            augmented or trunk, digests, there, columns, int(batch_size), int(shard_bytes),
            on_error == "skip",
        )  # fmt: skip
        if options is None:
            _local(run, data, progress)
        else:
            ray_engine.over(run, data, options, progress)
        there.sweep()
    return FeatureStore(store)


def _local(run: Run, data: Any, progress: bool) -> None:
    """Run the trunk in this process, while threads read batches and write shards."""
    total = count(data)
    run.check_keys(total)
    bar = keras.utils.Progbar(total, unit_name="sample") if progress else None
    reader = Beside()
    ahead = read_ahead(run.stream(data), reader)
    keep = True
    writer: Writer | None = None
    runner = run.runner()
    try:
        rest = run.rest(ahead, data)
        if rest is None:
            if progress:
                found = run.found
                assert found is not None
                print(
                    f"Nothing to compute: {run.folder} holds the {counted(found.rows, 'sample')}."
                )
            return
        done = 0 if run.found is None else run.found.samples
        if bar is not None and done:
            bar.update(done, finalize=False)
        for batch in rest:
            outputs, failed = runner(batch)
            if writer is None:
                writer = Writer(run.location, run.described(outputs, batch), run.columns, run.skip)
            writer.put(outputs, batch, done, failed)
            done += len(batch)
            if bar is not None:
                bar.update(done, finalize=False)
        if writer is not None:
            writer.wait()
        keep = False
        run.check_ended(rest, None if writer is None else writer.manifest)
        run.check_keys(done)
        if writer is None:
            run.end()
        else:
            writer.finish()
        if bar is not None:
            bar.update(done, finalize=True)
    except BaseException as error:
        # Data that breaks off at its begin does not replace an old store.
        stopped = isinstance(error, KeyboardInterrupt) or run.found is not None
        if keep and writer is not None and (stopped or writer.begun):
            _kept(writer, reader, error, run)
        raise
    finally:
        ahead.close()
        if writer is not None:
            writer.stop()


def _kept(writer: Writer, reader: Beside, error: BaseException, run: Run) -> None:
    """Write what is computed so far, and say so. A second Ctrl-C waits for nothing."""
    try:
        writer.keep()
    except KeyboardInterrupt:
        writer.abandon()
        reader.abandon()
        raise
    except Exception:
        return  # writing itself has failed, or is what is raised
    stored = writer.manifest.samples
    error.add_note(
        f"{counted(stored, 'sample is', 'samples are')} stored in {run.folder}. Call kg.features.compute again with the same data: "
        "it computes only those that are missing."
    )
