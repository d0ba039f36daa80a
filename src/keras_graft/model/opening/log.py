"""What two runs of the same code have in common: the entries of a log, and the lines they come from."""

from __future__ import annotations

import os
import sys
from typing import Any

import keras
import numpy as np

from keras_graft.graph.sizes import Size


class Log(list[Any]):
    """Entries that are compared, each with the line of the layer's own file that made it.

    Attributes:
        file: The file; empty for a layer of Keras.
        lines: For each entry the number of the line; 0 if it was made elsewhere.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: list[int] = []

    def append(self, entry: Any) -> None:
        """Add an entry."""
        super().append(entry)
        self.lines.append(_line_of(self.file) if self.file else 0)

    def first_difference(self, other: Log) -> int:
        """Return the line of the first entry that another run does not have; 0 if none is known."""
        same = zip(self, other, strict=False)
        number = next((n for n, (ours, theirs) in enumerate(same) if ours != theirs), -1)
        if number < 0:
            number = min(len(self), len(other))
        found = [log.lines[number] for log in (self, other) if number < len(log)]
        return next(filter(None, found), 0)


_RUNNER = os.path.join(os.path.dirname(__file__), "run.py")


def _line_of(file: str) -> int:
    frame = sys._getframe(2)
    # What is around the run is code of the user too, but not of the layer.
    while frame is not None and frame.f_code.co_filename != _RUNNER:
        if frame.f_code.co_filename == file:
            return frame.f_lineno
        frame = frame.f_back
    return 0


def form_of_new(layer: Any) -> Any:
    """Return what two layers made by the same line of code have in common."""
    config = {k: v for k, v in layer.get_config().items() if k != "name"}
    return type(layer).__name__, repr(sorted(config.items(), key=str))


def said(leaf: Any) -> Any:
    """Return what two runs of the same code have in common about an argument that is no tensor."""
    if isinstance(leaf, Size) or leaf is None or isinstance(leaf, bool | int | float | str):
        return "size" if isinstance(leaf, Size) else leaf
    if isinstance(leaf, keras.Variable):
        return id(leaf)
    if keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(keras.ops.convert_to_numpy(leaf))
        return str(array.dtype), array.shape, array.tobytes()
    return type(leaf).__name__
