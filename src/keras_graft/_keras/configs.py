"""Read and write Keras configurations without importing TensorFlow."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

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
    """Return the configuration of a layer, optimizer or metric: see `without_tensorflow`."""
    with without_tensorflow():
        return layer.get_config()
