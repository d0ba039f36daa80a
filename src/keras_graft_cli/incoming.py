"""What is put into a model: a layer in one word, or a model file."""

from __future__ import annotations

from typing import Any

from keras_graft_cli.files import load
from keras_graft_cli.layers import layer_maker
from keras_graft_cli.running import Run

_FILES = (".keras", ".h5", ".hdf5")


def incoming(run: Run, text: str) -> Any:
    """Return a model of a file, or a function that makes a new layer for each place."""
    if text.endswith(_FILES) or text.startswith("app:") or "://" in text:
        return load(run, text)
    make = layer_maker(text)
    return lambda node: make()
