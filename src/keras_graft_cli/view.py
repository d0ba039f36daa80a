"""The command `view`: a picture of a network as a page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from keras_graft_cli.completion import choices
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import structure
from keras_graft_cli.group import LOOK
from keras_graft_cli.options import Model
from keras_graft_cli.running import Run, Told, command

_SUFFIXES = {
    "html": ".html",
    "svg": ".svg",
    "dot": ".dot",
    "text": ".txt",
    "model_explorer": ".json",
}


@command(panel=LOOK, loads=True, writes=True)
def view(
    run: Run,
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write; by default a temporary one."),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="html, svg, dot, text or model_explorer; by default what the file's name says.",
            autocompletion=choices(*_SUFFIXES),
        ),
    ] = None,
) -> Told:
    """Write a page that shows a network, and works offline.

    Example: keras-graft view m.keras -o m.html
    """
    import keras_graft as kg

    kind = as_ or next((k for k, s in _SUFFIXES.items() if out and out.suffix == s), "html")
    if kind not in _SUFFIXES:
        raise UsageError(f"--as {kind}: it is one of {', '.join(_SUFFIXES)}.")
    if out is not None and out.exists() and not run.force:
        raise UsageError(f"{str(out)!r} already exists; --force overwrites it.")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"There is no folder {str(out.parent)!r} to write into.")
    picture = kg.show(structure(run, model), as_=kind)
    if out is None:
        name = Path(model.removeprefix("app:")).stem
        made = tempfile.mkstemp(_SUFFIXES[kind], f"keras-graft-{name}-")
        out = Path(made[1])
    picture.save(str(out))
    said = f"written: {out}"
    return Told({"path": str(out), "kind": kind}, said)
