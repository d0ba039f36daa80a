"""`Reason`: why a layer stays closed, with the line of the user's code."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import traceback
from typing import Any

from keras_graft.graph.sizes import Doubt
from keras_graft.printable import words_of

Reason = str

_KNOWN = (
    (r"symbolic KerasTensor cannot be used as a boolean", "its code branches on the values of a tensor"),
    (r"KerasTensor is symbolic|KerasTensor cannot be (used as input|converted)|cannot be used as input to a",
     "its code calls functions of a backend or of NumPy on tensors"),
    (r"not iterable|Iterating over a symbolic", "its code iterates over a tensor"),
)  # fmt: skip


def reason_of(error: BaseException, layer: Any) -> Reason:
    """Return why the code of a layer could not be followed, and at which line."""
    deepest = error
    while not isinstance(deepest, Doubt) and deepest.__cause__ is not None:
        deepest = deepest.__cause__
    text = str(deepest).strip()
    if not isinstance(deepest, Doubt):
        known = next((said for pattern, said in _KNOWN if re.search(pattern, text)), None)
        text = (
            known or f"{type(deepest).__name__}: {words_of(text.splitlines()[0] if text else '')}"
        )
    line = _line(error, layer)
    return text if not line or " (line " in text else f"{text} ({line})"


def _line(error: BaseException, layer: Any) -> str:
    """Return the innermost line of the layer's own file that an error went through."""
    file = file_of(layer)
    found = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return line_of_code(file, found[-1].lineno or 0) if found else ""


def file_of(layer: Any) -> str:
    """Return the file with a layer's class; an empty text for a class of Keras or of a notebook."""
    try:
        file = inspect.getfile(type(layer))
    except (TypeError, OSError):
        return ""
    return "" if f"{os.sep}keras{os.sep}src{os.sep}" in file else file


def line_of_code(file: str, number: int) -> str:
    """Return a line of a file as a reason quotes it."""
    code = linecache.getline(file, number).strip()
    return f"line {number} of {os.path.basename(file)}: {code}"


def is_error(reason: Reason) -> bool:
    """Whether a reason is an error of a call, which may come from the sizes that were tried."""
    return re.search(r"\b\w*(Error|Exception): |of another rank|does not run", reason) is not None


def may_be_sizes(reason: Reason) -> bool:
    """Whether a reason may come from the values that sizes had in the runs."""
    return is_error(reason) or "for other sizes" in reason


NUMBERS = "its graph does not give the numbers that its code gives"


def is_about_numbers(reason: Reason) -> bool:
    """Whether a reason is that graph and code give different bits."""
    return reason.startswith(NUMBERS)
