"""The layer names in a model file, read from its configuration without Keras."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST = 64 * 2**20
"""A configuration of more bytes is not read."""


def layer_names(path: Path) -> list[str]:
    """Return the names that select the layers in a `.keras` or `.h5` file, in its order.

    Layers in nested models have paths, `encoder/attention`. Of a file that cannot be read, there
    are none: this is for completion, which has no place for errors.
    """
    try:
        return list(dict.fromkeys(_names(configuration(path).get("config"))))
    except Exception:
        return []


def configuration(path: Path) -> dict[str, Any]:
    """Return the configuration of a model file; weights are not read."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as zipped:
            if zipped.getinfo("config.json").file_size > _MOST:
                return {}
            return json.loads(zipped.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(str(file.attrs["model_config"]))


def _names(config: Any, scope: str = "", depth: int = 0) -> Iterator[str]:
    layers = config.get("layers") if isinstance(config, dict) else config  # a list: old Sequential
    if not isinstance(layers, list) or depth > 20:
        return
    for layer in layers:
        inner = layer["config"]
        name = layer.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
        if layer.get("class_name") == "InputLayer" and depth:
            continue
        if isinstance(name, str):
            yield scope + name
            yield from _names(inner, f"{scope}{name}/", depth + 1)
