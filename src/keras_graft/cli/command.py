"""What all commands share: the group, options, errors, and what is written."""

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
    help="Run a trunk once over data, and store its outputs.", no_args_is_help=True
)
app.add_typer(features, name="features")


Model = Annotated[str, typer.Argument(help="A .keras or .h5 file, or app:ResNet50.")]


Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]


ShapeOption = Annotated[
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


def command(function: Callable[..., Any], group: typer.Typer = app) -> Callable[..., None]:
    """Turn a function that returns what to print into a command with exit codes."""

    @group.command(function.__name__.rpartition("features_")[2])
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        from keras_graft.model.files import FileError

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


def loaded(model: str, input_shape: str | None = None) -> Any:
    from keras_graft.model.files import FileError, load

    try:
        shape = None if input_shape is None else tuple(int(d) for d in input_shape.split(","))
    except ValueError:
        raise FileError(
            f"--input-shape takes whole numbers, such as 64,64,3: {input_shape}"
        ) from None
    return load(model, shape)


def boundary(text: str) -> str | tuple[str, ...]:
    """`a,b` is one boundary of two values."""
    parts = tuple(part.strip() for part in text.split(","))
    return parts[0] if len(parts) == 1 else parts


def written(models: dict[str, Any], paths: dict[str, Path], as_json: bool) -> Any:
    """Save models, and say what was written."""
    from keras_graft.model.files import save
    from keras_graft.tables import table

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


def of_features(function: Callable[..., Any]) -> Callable[..., None]:
    return command(function, features)
