"""The arguments and options that several commands take."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft_cli.backend import Backend
from keras_graft_cli.completion import (
    boundaries,
    choices,
    data_files,
    image_data,
    models,
    names,
)

_COMMON, _LOADING = "Common options", "How MODEL is read"

Model = Annotated[
    str,
    typer.Argument(
        help="A .keras or .h5 file, or app:ResNet50.", autocompletion=models, metavar="MODEL"
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="The .keras file to write.", autocompletion=models)
]
Nodes = Annotated[
    str,
    typer.Argument(
        help="A name, a pattern such as 'conv4_*', a path such as encoder/attn, or class:ReLU.",
        autocompletion=names,
    ),
]
Value = Annotated[str, typer.Argument(help="The name of one value.", autocompletion=names)]
At = Annotated[
    list[str],
    typer.Option(
        help="A boundary; several values of one are joined by commas.", autocompletion=boundaries
    ),
]
Complete = Annotated[bool, typer.Option("--complete", help="Add the values that also cross.")]
Layer = Annotated[
    str,
    typer.Argument(
        help="GELU, Dropout:0.2, Dense:64,activation=relu, Keras's JSON of a layer, or a model file."
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(help="A .npy or .npz of inputs; without it they are random.", autocompletion=data_files),
]  # fmt: skip
Data = Annotated[
    str,
    typer.Argument(help="A .npy of inputs, or a .npz of x, y and w.", autocompletion=data_files),
]
Images = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder of images per class, or a .npz of x, y, w.",
        autocompletion=image_data,
    ),
]
Weights = Annotated[
    str,
    typer.Option(help="share, copy or fresh.", autocompletion=choices("share", "copy", "fresh")),
]


def _parameter(name: str, default: Any, kind: Any, *declared: str, **info: Any) -> Any:
    how = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[kind, typer.Option(*declared, **info)]  # type: ignore[valid-type]
    return inspect.Parameter(name, how, default=default, annotation=annotation)


JSON = _parameter(
    "as_json", False, bool, "--json", help="Print JSON and nothing else.", rich_help_panel=_COMMON
)
DEBUG = _parameter(
    "debug", False, bool, "--debug",
    help="Show tracebacks and what Keras prints.", rich_help_panel=_COMMON,
)  # fmt: skip
BACKEND = _parameter(
    "backend", None, Backend | None, "--backend",
    help="By default KERAS_BACKEND, Keras's own settings, or the first installed.",
    rich_help_panel=_COMMON,
)  # fmt: skip
FORCE = _parameter(
    "force", False, bool, "--force", help="Overwrite existing files.", rich_help_panel=_COMMON
)
INPUT_SHAPE = _parameter(
    "input_shape", None, str | None, "--input-shape",
    help="For app:NAME, such as 64,64,3.", rich_help_panel=_LOADING,
)  # fmt: skip
IMPORT = _parameter(
    "modules", None, list[str] | None, "--import",
    help="Import this module first: your code, with your registered layers.",
    rich_help_panel=_LOADING, metavar="MODULE",
)  # fmt: skip
UNSAFE = _parameter(
    "unsafe", False, bool, "--unsafe",
    help="Let Python code in the file (Lambda layers) run, with all that you may do.",
    rich_help_panel=_LOADING,
)  # fmt: skip

LOADING = (INPUT_SHAPE, IMPORT, UNSAFE)
ALWAYS = (JSON, BACKEND, DEBUG)
