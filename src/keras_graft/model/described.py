"""Classes, functions and layers by names and configurations that plain data can hold."""

from __future__ import annotations

import functools
import os
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.recording import Put

MODULES = ("layers", "activations", "ops", "ops.nn", "ops.numpy", "ops.image", "ops.linalg")
"""Where classes and functions of Keras are looked up by name."""


def class_name(cls: type) -> str | None:
    """Return the name by which a class is found again: Keras's own, or a registered one."""
    for name in (f"keras.layers.{cls.__name__}", f"keras.{cls.__name__}"):
        if named(name) is cls:
            return name
    registered = keras.saving.get_registered_name(cls)
    return registered if keras.saving.get_registered_object(registered) is cls else None


def function_name(function: Any) -> str | None:
    """Return the name by which a function is found again; None for any other function."""
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        return None
    for place in ("keras.activations", "keras.ops", "keras.ops.image", "keras.ops.linalg"):
        if named(f"{place}.{name}") is function:
            return f"{place}.{name}"
    registered = keras.saving.get_registered_name(function)
    return registered if keras.saving.get_registered_object(registered) is function else None


@functools.cache
def named(name: str) -> Any:
    """Return the public class or function of Keras of a name; None if there is none."""
    parts = name.split(".")
    if parts[0] != "keras" or any(not p.isidentifier() or p[0] == "_" for p in parts):
        return None
    found: Any = keras
    for part in parts[1:]:
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
        if found is None:
            return None
    return found


def layer_data(put: Put) -> dict[str, Any]:
    """Return the class and configuration of a layer or a model, without its weights."""
    layer = put.new
    what = f"{type(layer).__name__} {layer.name!r}"
    try:
        data = _keras.serialize(layer)
    except Exception as error:  # a layer of the user's own
        return unwritten(f"the {what}, whose configuration cannot be written ({type(error).__name__})")
    if _holds_code(data):
        return unwritten(f"the {what}, which holds Python code")
    name = data.get("registered_name")
    if not (name and keras.saving.get_registered_object(name)):
        module = data["module"] if str(data["module"]).startswith("keras.") else "keras"
        name = f"{module}.{data['class_name']}"
        if not str(data["module"]).split(".")[0] == "keras":
            return unwritten(f"the {what}, whose class is not registered")
        if name.startswith("keras.src."):  # a Functional
            name = "keras.Model"
    found = {"layer": name, "config": _plain(data["config"])}
    if put.seeds:
        found["seeds"] = list(put.seeds)
    if put.own:
        found["had_weights"] = True
    return found


def unwritten(thing: Any) -> dict[str, Any]:
    """Return the note that something cannot be written down; no path of a machine is in it."""
    if isinstance(thing, str):
        return {"unwritten": thing}
    code = getattr(thing, "__code__", None)
    name = getattr(thing, "__name__", type(thing).__name__)
    place = ""
    if code is not None:
        place = f" ({os.path.basename(code.co_filename)}, line {code.co_firstlineno})"
    return {"unwritten": f"the Python function {name!r}{place}"}


def _holds_code(data: Any) -> bool:
    if isinstance(data, dict):
        return data.get("class_name") in ("__lambda__", "Lambda") or any(
            map(_holds_code, data.values())
        )
    return isinstance(data, list) and any(map(_holds_code, data))


def _plain(config: Any) -> Any:
    """Return a configuration with the name of each dtype policy in its place."""
    if isinstance(config, list | tuple):
        return [_plain(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config.get("module") == "keras":
        return config["config"]["name"]
    return {key: _plain(value) for key, value in config.items()}
