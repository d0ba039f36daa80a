"""The commands for stores of features."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keras_graft.cli.command import Force, Json, Model, ShapeOption, loaded, of_features
from keras_graft.printable import words_of

Store = Annotated[str, typer.Argument(help="The folder of a store.")]


@of_features
def features_compute(
    model: Model,
    data: Annotated[str, typer.Argument(help="A .npy of inputs, or a .npz of x, y and w.")],
    store: Annotated[str, typer.Option("--out", "-o", help="The folder of the store.")],
    at: Annotated[
        list[str] | None, typer.Option(help="Where to cut; several taps are kept by name.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")] = 32,
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32.")] = None,
    input_shape: ShapeOption = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write or continue a store: keras-graft features compute m.keras x.npz --at pool -o store.

    The model is frozen first: in inference mode, as a trunk is.
    """
    import keras_graft as kg

    given = arrays(data)
    source = loaded(model, input_shape)
    taps = at[0] if at and len(at) == 1 else at
    trunk = kg.freeze(kg.extract(source, taps) if taps else source)
    made = kg.features.compute(
        trunk, given, store, batch_size=batch_size, dtype=dtype, resume=not force,  # type: ignore[arg-type]
        progress=not as_json,
    )  # fmt: skip
    return _told(made, as_json)


def arrays(path: str) -> Any:
    """Return x, (x, y) or (x, y, w) of a file of NumPy."""
    import zipfile
    import zlib

    import numpy as np

    from keras_graft.model.files import FileError

    damaged = (
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, RecursionError,
        OverflowError, SyntaxError, TypeError, KeyError, NotImplementedError,
    )  # fmt: skip
    try:
        loaded = np.load(path, mmap_mode="r")
    except damaged as error:
        raise FileError(
            f"{path!r} is not a readable .npy or .npz file: {words_of(error)}"
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    if "x" not in loaded or set(loaded.files) - {"x", "y", "w"}:
        raise FileError(
            f"{path!r} holds {', '.join(loaded.files)}: name the inputs x, and targets and sample "
            "weights, if there are any, y and w."
        )
    try:
        return tuple(loaded.get(name) for name in ("x", "y", "w"))
    except ValueError as error:
        raise FileError(f"{path!r} holds Python objects, not numbers: {words_of(error)}") from error
    except damaged as error:
        raise FileError(f"{path!r} cannot be read: {words_of(error)}") from error


def _told(store: Any, as_json: bool) -> Any:
    if not as_json:
        return str(store)
    known = {name: store.manifest.columns[name] for name in store.columns()}
    columns = {k.rstrip("/"): [list(c.shape), c.dtype] for k, c in known.items()}
    return {
        "path": store.path, "samples": len(store), "bytes": store.bytes,
        "complete": store.complete, "shards": len(store.manifest.shards), "columns": columns,
        "trunk": store.manifest.trunk, "versions": store.manifest.versions,
    }  # fmt: skip


@of_features
def features_info(store: Store, as_json: Json = False) -> Any:
    """Say what a store holds: keras-graft features info store."""
    from keras_graft.features.store.store import FeatureStore

    return _told(FeatureStore(store), as_json)


@of_features
def features_verify(store: Store, as_json: Json = False) -> Any:
    """Read all shards again and compare checksums: keras-graft features verify store."""
    from keras_graft.features.store.store import FeatureStore

    opened = FeatureStore(store)
    read = opened.verify()
    if as_json:
        return {"path": opened.path, "bytes": read, "ok": True}
    return f"{opened.path}: {len(opened.manifest.shards)} shards, {read:,} bytes, all as written"
