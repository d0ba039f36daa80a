"""Keep what Keras and its backends print away from the output."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIBRARIES = {"keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "h5py", "importlib"}
_LOGGERS = ("absl", "jax", "jax._src", "tensorflow", "keras", "torch", "h5py")


def set_levels() -> None:
    """Say in the environment that backends log nothing, before they are imported."""
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "GLOG_minloglevel": "3",
        "GRPC_VERBOSITY": "ERROR", "ABSL_MIN_LOG_LEVEL": "3",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet(whole: bool) -> Iterator[None]:
    """Send Python's output to stderr, so that stdout is ours, and drop what C++ code writes.

    Args:
        whole: Also drop what is written to the file descriptors themselves, without Python. Tests
            run commands in their own process and leave this out.
    """
    out, error = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if whole:
            sys.stderr = stack.enter_context(_descriptors_closed())
        sys.stdout = sys.stderr
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _warned
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, error


@contextlib.contextmanager
def _descriptors_closed() -> Iterator[io.TextIOWrapper]:
    """Point stdout and stderr at nothing; give a stream that still writes to stderr."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace") as stream:
        try:
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            yield stream
        finally:
            for old, at in zip(kept, (1, 2), strict=True):
                os.dup2(old, at)
                os.close(old)
            os.close(nothing)


def _warned(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Print a warning that a user can act on; Python would print the names in it as they are.

    Those of Keras and its backends are about how they are called, and that is ours.
    """
    from keras_graft.printable import words_of

    if not _LIBRARIES & set(Path(filename).parts):
        print(f"warning: {words_of(message)}", file=sys.stderr)
