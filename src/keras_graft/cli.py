"""The command `keras-graft`: one function for each verb; Keras is imported when one runs."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft.errors import GraftError
from keras_graft.printable import printable, words_of

app = typer.Typer(
    help="Take trained Keras 3 networks apart and put them together again.\n\n"
    "MODEL is a .keras file, a legacy .h5 file, or app:NAME for an architecture of "
    "keras.applications with fresh weights (nothing is downloaded).",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

features = typer.Typer(
    help="Run a trunk once over data, and keep what it gives.", no_args_is_help=True
)
app.add_typer(features, name="features")

Model = Annotated[str, typer.Argument(help="A .keras or .h5 file, or app:ResNet50.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]
Shape = Annotated[
    str | None, typer.Option("--input-shape", help="For app:NAME, such as 64,64,3.")
]  # fmt: skip


@contextmanager
def _output_kept_clean() -> Iterator[None]:
    """Send what Keras and its backends print to stderr, so that stdout is ours."""
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warned
            yield
    finally:
        sys.stdout = out


def _warned(message: Warning | str, *_: Any) -> None:
    """Print a warning: Python would print the names in it as they are."""
    typer.echo(f"warning: {words_of(message)}", err=True)


def _command(function: Callable[..., Any], group: typer.Typer = app) -> Callable[..., None]:
    """Turn a function that returns what to print into a command with exit codes."""

    @group.command(function.__name__.rpartition("features_")[2])
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        from keras_graft.files import FileError

        try:
            with _output_kept_clean():
                result = function(*args, **kwargs)
        except GraftError as error:
            # Ways out are those of the command.
            typer.echo(f"error: {str(error).replace('resume=False', '--force')}", err=True)
            raise typer.Exit(2 if isinstance(error, FileError) else 1) from None
        except OSError as error:  # a full disk, a folder that is not ours
            typer.echo(f"error: {printable(error)}", err=True)
            raise typer.Exit(2) from None
        typer.echo(result if isinstance(result, str) else json.dumps(result, indent=2))

    return run


def _load(model: str, input_shape: str | None = None) -> Any:
    from keras_graft.files import FileError, load

    try:
        shape = None if input_shape is None else tuple(int(d) for d in input_shape.split(","))
    except ValueError:
        raise FileError(
            f"--input-shape takes whole numbers, such as 64,64,3: {input_shape}"
        ) from None
    return load(model, shape)


def _boundary(text: str) -> str | tuple[str, ...]:
    """`a,b` is one boundary of two values."""
    parts = tuple(part.strip() for part in text.split(","))
    return parts[0] if len(parts) == 1 else parts


def _written(models: dict[str, Any], paths: dict[str, Path], as_json: bool) -> Any:
    """Save models, and say what was written."""
    from keras_graft.files import save
    from keras_graft.tabular import table

    save(models, paths)
    rows = [
        {
            "path": str(paths[key]),
            "inputs": [[list(t.shape), t.dtype] for t in model.inputs],
            "outputs": [[list(t.shape), t.dtype] for t in model.outputs],
            "parameters": model.count_params(),
        }
        for key, model in models.items()
    ]
    if as_json:
        return {"written": rows}
    head = ("written", "inputs", "outputs", "params")

    def specs(tensors: list[Any]) -> str:
        return "; ".join(
            f"({', '.join('?' if d is None else str(d) for d in shape)}) {dtype}"
            for shape, dtype in tensors
        )

    return table(
        head, [(r["path"], specs(r["inputs"]), specs(r["outputs"]), r["parameters"]) for r in rows]
    )


@_command
def show(
    model: Model,
    select: Annotated[str | None, typer.Option(help="Only what this selector names.")] = None,
    input_shape: Shape = None,
    as_json: Json = False,
) -> Any:
    """List the calls of a model: keras-graft show model.keras --select 'conv4_*'."""
    import keras_graft as kg
    from keras_graft.parameters import count_parameters

    graph = kg.read(_load(model, input_shape))
    selection = kg.select(graph, select or "**")
    if not as_json:
        return str(graph if select is None else selection)
    return {
        "name": graph.name,
        "inputs": list(graph.input_names),
        "outputs": [graph.label(v) for v in graph.outputs],
        "nodes": [
            {
                "path": node.path,
                "kind": node.kind,
                "outputs": [[list(v.spec.shape), v.spec.dtype] for v in node.outputs if v.spec],
                "from": [node.home.label(v) for v in node.inputs],
                "parameters": count_parameters([node.operation]),
            }
            for node in selection.nodes
        ],
    }


@_command
def cuts(model: Model, input_shape: Shape = None, as_json: Json = False) -> Any:
    """List where a model can be cut at a single value: keras-graft cuts app:ResNet50."""
    import keras_graft as kg

    found = kg.cuts(_load(model, input_shape))
    return found.to_dict() if as_json else str(found)


@_command
def extract(
    model: Model,
    taps: Annotated[list[str], typer.Argument(help="Selectors of what to give out.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")],
    input_shape: Shape = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write a model of intermediate outputs: keras-graft extract m.keras 'block*_out' -o taps.keras."""
    import keras_graft as kg
    from keras_graft.files import check_free

    paths = {"model": out}
    check_free(paths, force)
    source = _load(model, input_shape)
    return _written(
        {"model": kg.extract(source, taps[0] if len(taps) == 1 else taps)}, paths, as_json
    )


@_command
def split(
    model: Model,
    at: Annotated[
        list[str], typer.Option(help="A boundary; several values of one are joined by commas.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the stages.")],
    complete: Annotated[bool, typer.Option(help="Add the values that also cross.")] = False,
    input_shape: Shape = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write the stages of a model: keras-graft split m.keras --at add_3 -o parts.

    One boundary gives trunk.keras and head.keras, more give stage0.keras, stage1.keras, ...
    """
    import keras_graft as kg
    from keras_graft.files import check_free

    count = len(at) + 1
    names = ["trunk", "head"] if count == 2 else [f"stage{i}" for i in range(count)]
    paths = {name: out / f"{name}.keras" for name in names}
    check_free(paths, force)
    stages = kg.split(_load(model, input_shape), [_boundary(part) for part in at], complete)
    return _written(dict(zip(names, stages, strict=True)), paths, as_json)


@_command
def join(
    stages: Annotated[list[str], typer.Argument(help="Models, in the order in which data passes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")],
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write one model that runs stages in turn: keras-graft join trunk.keras head.keras -o m.keras."""
    import keras_graft as kg
    from keras_graft.files import check_free

    paths = {"model": out}
    check_free(paths, force)
    return _written({"model": kg.join(*(_load(stage) for stage in stages))}, paths, as_json)


def _of_features(function: Callable[..., Any]) -> Callable[..., None]:
    return _command(function, features)


Store = Annotated[str, typer.Argument(help="The folder of a store.")]


@_of_features
def features_compute(
    model: Model,
    data: Annotated[str, typer.Argument(help="A .npy of inputs, or a .npz of x, y and w.")],
    store: Annotated[str, typer.Option("--out", "-o", help="The folder of the store.")],
    at: Annotated[
        list[str] | None, typer.Option(help="Where to cut; several taps are kept by name.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")] = 32,
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32.")] = None,
    input_shape: Shape = None,
    force: Force = False,
    as_json: Json = False,
) -> Any:
    """Write or go on with a store: keras-graft features compute m.keras x.npz --at pool -o store.

    The model is frozen first: in inference mode, as a trunk is.
    """
    import keras_graft as kg

    arrays = _arrays(data)
    source = _load(model, input_shape)
    taps = at[0] if at and len(at) == 1 else at
    trunk = kg.freeze(kg.extract(source, taps) if taps else source)
    made = kg.features.compute(
        trunk, arrays, store, batch_size=batch_size, dtype=dtype, resume=not force,  # type: ignore[arg-type]
        progress=not as_json,
    )  # fmt: skip
    return _told(made, as_json)


def _arrays(path: str) -> Any:
    """Return x, (x, y) or (x, y, w) of a file of NumPy."""
    import zipfile
    import zlib

    import numpy as np

    from keras_graft.files import FileError

    damaged = (
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, RecursionError,
        OverflowError, SyntaxError, TypeError, KeyError, NotImplementedError,
    )  # fmt: skip
    try:
        loaded = np.load(path, mmap_mode="r")
    except damaged as error:
        raise FileError(f"{path!r} is no readable .npy or .npz file: {words_of(error)}") from error
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
    columns = {k.rstrip("/"): [list(c.shape), c.dtype] for k, c in store.manifest.columns.items()}
    return {
        "path": store.path, "samples": len(store), "bytes": store.bytes,
        "complete": store.complete, "shards": len(store.manifest.shards), "columns": columns,
        "trunk": store.manifest.trunk, "versions": store.manifest.versions,
    }  # fmt: skip


@_of_features
def features_info(store: Store, as_json: Json = False) -> Any:
    """Say what a store holds: keras-graft features info store."""
    from keras_graft.features.store import FeatureStore

    return _told(FeatureStore(store), as_json)


@_of_features
def features_verify(store: Store, as_json: Json = False) -> Any:
    """Read all shards again and compare checksums: keras-graft features verify store."""
    from keras_graft.features.store import FeatureStore

    opened = FeatureStore(store)
    read = opened.verify()
    if as_json:
        return {"path": opened.path, "bytes": read, "ok": True}
    return f"{opened.path}: {len(opened.manifest.shards)} shards, {read:,} bytes, all as written"


@_command
def demo() -> Any:
    """Cut a real architecture in the middle, join it again, and show that nothing changed."""
    import keras
    import numpy as np

    import keras_graft as kg
    from keras_graft.files import load
    from keras_graft.tabular import table

    model = load("app:MobileNetV3Small", (64, 64, 3))
    found = kg.cuts(model)
    cut = found[len(found) // 2]
    trunk, head = kg.split(model, at=cut)
    joined = kg.join(trunk, head)
    x = np.random.default_rng(0).random((2, 64, 64, 3), "float32") * 255
    whole, parts, again = (
        np.asarray(keras.ops.convert_to_numpy(y)) for y in (model(x), head(trunk(x)), joined(x))
    )
    rows = [
        ("places to cut at a single value", len(found)),
        ("cut in the middle, at", cut.name),
        ("parameters of the whole", model.count_params()),
        ("parameters of the trunk", trunk.count_params()),
        ("parameters of the head", head.count_params()),
        ("largest difference of head(trunk(x)) from the whole", float(np.abs(whole - parts).max())),
        ("largest difference of the joined model", float(np.abs(whole - again).max())),
        ("layers of the joined model that are the donor's own",
         sum(a is b for a, b in zip(joined.layers[1:], model.layers[1:], strict=True))),
    ]  # fmt: skip
    return table(("MobileNetV3Small, fresh weights", ""), [(a, f"{b}") for a, b in rows])


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"keras-graft {version('keras-graft')}, Keras {version('keras')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions.")
    ] = False,
) -> None:
    pass
