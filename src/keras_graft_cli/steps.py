"""The commands for the steps that made a model: read them, and make them again on another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_graft_cli.completion import files, steps_files
from keras_graft_cli.errors import UsageError
from keras_graft_cli.files import load, make
from keras_graft_cli.group import EDIT
from keras_graft_cli.options import Model, Out
from keras_graft_cli.running import Run, Told, command


@command(panel=EDIT, loads=True, writes=True)
def steps(
    run: Run,
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .yaml or .json file.", autocompletion=steps_files),
    ] = None,
) -> Told:
    """Print the steps that made a model, or write them.

    Example: keras-graft steps m.keras -o steps.yaml
    """
    import keras_graft as kg

    taken = kg.steps(load(run, model))
    if out is None:
        return Told(taken.to_dict(), taken)
    if out.exists() and not run.force:
        raise UsageError(f"{str(out)!r} already exists; --force overwrites it.")
    taken.save(str(out))
    return Told({"written": str(out), "steps": taken.to_dict()}, [taken, f"written: {out}"])


@command(panel=EDIT, loads=True, writes=True)
def replay(
    run: Run,
    steps: Annotated[
        str,
        typer.Argument(help="A .yaml or .json file of steps.", autocompletion=steps_files),
    ],
    model: Model,
    out: Out,
    given: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: a model or file that the steps need.", autocompletion=files),
    ] = None,
) -> Told:
    """Make the steps of a file on a model.

    Example: keras-graft replay steps.yaml m.keras -o new.keras
    """
    import keras_graft as kg

    how: dict[str, Any] = {"given": _given(run, given)} if given else {}
    return make(run, out, lambda: kg.replay(load(run, model), steps, **how))


def _given(run: Run, texts: list[str]) -> dict[str, Any]:
    """Return the models and files by the names that steps have for them."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--given takes NAME=FILE: {text}")
        is_model = path.endswith((".keras", ".h5", ".hdf5")) or path.startswith("app:")
        found[name] = load(run, path) if is_model else path
    return found
