"""Configurations of Keras objects. They are read here only, so that Keras imports no TensorFlow."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_graft._keras import private


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Let Keras write configurations without importing TensorFlow, on other backends.

    Keras checks whether what it writes has a TensorFlow type, and imports TensorFlow to check: two
    to four seconds and 460 MB. Before TensorFlow is imported, nothing can have its types.
    Uses `LazyModule._available`, which is None until Keras has asked (3.12 - 3.15).
    """
    tensorflow = private.tensorflow
    if "tensorflow" in sys.modules or getattr(tensorflow, "_available", True) is not None:
        yield
        return
    tensorflow._available = False
    try:
        yield
    finally:
        tensorflow._available = None


def get_config(layer: Any) -> dict[str, Any]:
    """Return the configuration of a layer, optimizer or metric."""
    with without_tensorflow():
        return layer.get_config()


def serialize(layer: Any) -> dict[str, Any]:
    """Return the configuration of a layer with its class."""
    with without_tensorflow():
        config: Any = keras.saving.serialize_keras_object(layer)
        return config


def save(model: Any, path: str | Path) -> None:
    """Save a model as a `.keras` file."""
    with without_tensorflow():
        model.save(path)


def compile_like(model: Any, other: Any) -> None:
    """Compile a model with new objects of the configuration that another is compiled with."""
    with without_tensorflow():
        model.compile_from_config(other.get_compile_config())
