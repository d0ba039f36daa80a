"""What the Tab key offers: files, architectures, and the layer names of the model on the line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from keras_graft_cli.applications import NAMES
from keras_graft_cli.names import layer_names

Offer = Callable[[typer.Context, list[str], str], list[str]]

_MODELS = (".keras", ".h5", ".hdf5")


def models(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer model files, and `app:` names once that is typed."""
    found = _files(incomplete, *_MODELS)
    if incomplete.startswith("app:"):
        return [f"app:{name}" for name in NAMES]
    return [*found, "app:"] if "app:".startswith(incomplete) else found


def weights_files(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the files that `transplant` reads."""
    return [
        *models(context, args, incomplete),
        *_files(incomplete, ".safetensors", ".pth", ".pt", ".bin"),
    ]


def data_files(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the files that hold arrays."""
    return _files(incomplete, ".npy", ".npz")


def image_data(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer folders, and files of arrays."""
    return _files(incomplete, ".npz")


def steps_files(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the files of steps."""
    return _files(incomplete, ".yaml", ".yml", ".json")


def files(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the files behind `NAME=`."""
    name, equals, path = incomplete.partition("=")
    return [f"{name}={found}" for found in _files(path, "")] if equals else []


def names(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the layers of the model on the line."""
    path = _model_of(context)
    return [] if path is None else layer_names(path)


def boundaries(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the layers for the last of several names joined by commas."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + name for name in names(context, args, incomplete)]


def choices(*words: str) -> Offer:
    """Return a function that offers these words."""

    def offer(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
        return list(words)

    return offer


def commands(context: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Offer the commands that print JSON."""
    from keras_graft_cli.schema import with_schema

    return with_schema()


def _files(incomplete: str, *suffixes: str) -> list[str]:
    """Return the folders and the files with these suffixes that a word may become."""
    folder, _, start = incomplete.rpartition("/")
    folder = folder + "/" if "/" in incomplete else ""

    def found() -> Iterator[str]:
        for entry in os.scandir(os.path.expanduser(folder) or "."):
            hidden = entry.name.startswith(".") and not start.startswith(".")
            if not entry.name.startswith(start) or hidden:
                continue
            if entry.is_dir():
                yield f"{folder}{entry.name}/"
            elif entry.name.endswith(suffixes):
                yield folder + entry.name

    try:
        return sorted(found())
    except OSError:
        return []


def _model_of(context: Any) -> Path | None:
    """Return the first model file among the arguments that are on the line already."""
    # Where an option still lacks its value, the arguments before it are not taken up yet.
    given = [v for value in [*context.params.values(), context.args] for v in _flat(value)]
    for value in given:
        path = Path(os.path.expanduser(value))
        if path.suffix in _MODELS and path.is_file():
            return path
    return None


def _flat(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for text in value if isinstance(text, str)]
    return [value] if isinstance(value, str) else []
