"""Choose Keras's backend before Keras is imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from keras_graft_cli.errors import UsageError


class Backend(StrEnum):
    """The backends that Keras runs on."""

    JAX = "jax"
    TENSORFLOW = "tensorflow"
    TORCH = "torch"


def choose(wanted: Backend | None, environ: MutableMapping[str, str] = os.environ) -> str:
    """Set KERAS_BACKEND, and return it.

    Without `wanted` it is what the environment says, else what Keras's own file says, if that is
    installed (Keras writes "tensorflow" there by itself), else the first that is installed.

    Raises:
        UsageError: If the backend is not installed, or if Keras already runs on another one.
    """
    name = wanted or environ.get("KERAS_BACKEND") or _configured(environ) or _first_installed()
    if wanted is not None and not _is_installed(name):
        raise UsageError(f"--backend {name}: {name} is not installed: pip install {name}.")
    if "keras" in sys.modules:
        runs_on = sys.modules["keras"].backend.backend()
        if wanted is not None and runs_on != wanted:
            raise UsageError(
                f"--backend {wanted}: Keras already runs on {runs_on} here. Start it as "
                f"keras-graft, or with KERAS_BACKEND={wanted} in the environment."
            )
        return runs_on
    environ["KERAS_BACKEND"] = name
    return name


def _configured(environ: MutableMapping[str, str]) -> str | None:
    folder = Path(environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    try:
        name = json.loads((folder / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and _is_installed(name) else None


def _first_installed() -> str:
    found = next(filter(_is_installed, Backend), None)
    if found is None:
        raise UsageError(
            "Keras needs a backend, and none is installed: pip install jax, tensorflow or torch."
        )
    return found


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
