"""The commands for stores of features."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft_cli.arrays import arrays
from keras_graft_cli.completion import choices, names
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load
from keras_graft_cli.group import features
from keras_graft_cli.options import Data, Model
from keras_graft_cli.running import Run, Told, command

Store = Annotated[str, typer.Argument(help="The folder of a store.")]


@command(group=features, loads=True, writes=True)
def compute(
    run: Run,
    model: Model,
    data: Data,
    store: Annotated[str, typer.Option("--out", "-o", help="The folder of the store.")],
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to cut; several taps are kept by name.", autocompletion=names
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 32,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float16, bfloat16 or float32.",
            autocompletion=choices("float16", "bfloat16", "float32"),
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local, or ray: on a Ray cluster.", autocompletion=choices("local", "ray")
        ),
    ] = "local",
    actors: Annotated[
        int | None, typer.Option(min=1, help="With ray: how many actors hold the trunk.")
    ] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="With ray: GPUs of each actor.")] = None,
) -> Told:  # fmt: skip
    """Write or continue a store.

    Example: keras-graft features compute m.keras x.npz --at pool -o store

    The model is frozen first: in inference mode, as a trunk is. With --engine ray the folder is one that
    all machines share, or a URL, and the cluster is the one that RAY_ADDRESS names, or a local one.
    """
    import keras_graft as kg
    from keras_graft_cli.selectors import several

    ray = {k: v for k, v in (("actors", actors), ("gpus", gpus)) if v is not None}
    if ray and engine != "ray":
        raise UsageError(f"--{next(iter(ray))} is of actors: add --engine ray.")
    given = arrays(data)
    source = load(run, model)
    trunk = kg.freeze(kg.extract(source, several(at)) if at else source)
    run.progress.stop()
    how: Any = {"dtype": dtype, "engine": engine, "ray": ray}
    made = kg.features.compute(
        trunk, given, store, batch_size=batch_size, resume=not run.force, progress=not run.as_json, **how
    )  # fmt: skip
    return _told(made)


@command(group=features)
def info(run: Run, store: Store) -> Told:
    """Say what a store holds.

    Example: keras-graft features info store
    """
    from keras_graft.features.store.store import FeatureStore

    return _told(FeatureStore(store))


@command(group=features)
def verify(run: Run, store: Store) -> Told:
    """Read all shards again and compare checksums.

    Example: keras-graft features verify store
    """
    from keras_graft.features.store.store import FeatureStore

    opened = FeatureStore(store)
    run.progress.say("Reading all shards")
    read = opened.verify()
    said = f"{opened.path}: {len(opened.manifest.shards)} shards, {read:,} bytes, all as written"
    return Told({"path": opened.path, "bytes": read, "ok": True}, said)


@command(group=features)
def export(
    run: Run,
    store: Store,
    out: Annotated[str, typer.Option("--out", "-o", help="A new folder.")],
    format: Annotated[
        str,
        typer.Option(
            help="webdataset: tar files. parquet: tables.",
            autocompletion=choices("webdataset", "parquet"),
        ),
    ] = "webdataset",
) -> Told:
    """Write a store as files that other libraries read.

    Example: keras-graft features export store -o tars

    With --format parquet it needs pyarrow, and is read by Lance, Ray, Spark and pandas.
    """
    import keras_graft as kg

    run.progress.say("Writing")
    made = kg.features.export(store, out, format)
    return Told(made.to_dict(), made)


def _told(store: Any) -> Told:
    known = {name: store.manifest.columns[name] for name in store.columns()}
    columns = {k.rstrip("/"): [list(c.shape), c.dtype] for k, c in known.items()}
    data = {
        "path": store.path, "samples": len(store), "bytes": store.bytes,
        "complete": store.complete, "shards": len(store.manifest.shards), "columns": columns,
        "trunk": store.manifest.trunk, "versions": store.manifest.versions,
    }  # fmt: skip
    return Told(data, str(store))
