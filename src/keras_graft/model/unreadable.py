"""Why something is no model that can be read, and the way out, as text."""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_graft.printable import shown


def why_unreadable(model: Any) -> str:
    """Return why something that is no model with code of its own has no graph."""
    if isinstance(model, keras.Sequential):
        return (
            f"Sequential {model.name!r} was never built, so it has no tensors yet. Give it an "
            "input first: model.build((None, ...)), or start it with keras.Input(...)."
        )
    is_file = isinstance(model, str | os.PathLike) and str(model).endswith((".keras", ".h5"))
    hint = f" Load it first: keras.models.load_model({shown(str(model))})." if is_file else ""
    return (
        "Expected a Keras model or a keras_graft.Graph, got "
        f"{type(model).__name__}: {shown(model)}.{hint}"
    )
