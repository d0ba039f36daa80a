"""Classes, functions and layers by names and configurations that plain data can hold."""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import keras

from keras_graft import _keras


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


def layer_data(layer: Any, fresh: bool = True) -> dict[str, Any]:
    """Return a layer or a model as plain data: class, configuration and seeds, no weights.

    Args:
        layer: The layer, before it is built.
        fresh: Whether its weights, if it has any, do not count.
    """
    what = f"{type(layer).__name__} {layer.name!r}"
    try:
        data = _keras.serialize(layer)
    except Exception as error:  # a layer of the user's own
        return unwritten(
            f"the {what}, whose configuration cannot be written ({type(error).__name__})"
        )
    if _holds_code(data):
        return unwritten(f"the {what}, which holds Python code")
    name = data.get("registered_name")
    if not (name and keras.saving.get_registered_object(name)):
        module = data["module"] if str(data["module"]).startswith("keras.") else "keras"
        name = f"{module}.{data['class_name']}"
        if str(data["module"]).split(".")[0] != "keras":
            return unwritten(f"the {what}, whose class is not registered")
        if name.startswith("keras.src."):  # a Functional
            name = "keras.Model"
    config = _plain(data["config"])
    if name.startswith("keras.layers."):
        config = _short(type(layer), config)
    found = {"layer": name, "config": config}
    if layer.weights and not fresh:
        found["had_weights"] = True
    elif not layer.weights and (seeds := _keras.seeds(layer)):
        found["seeds"] = list(seeds)
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


def _short(cls: type, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer of Keras without what its constructor assumes.

    A later Keras may write entries that an earlier one does not know; mostly they are None.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    found = {}
    for name, value in config.items():
        default = parameters[name].default if name in parameters else None
        assumed = value is None and default is None or name == "trainable" and value is True
        if not assumed:
            found[name] = _initializer(value) if name.endswith("_initializer") else value
    return found


def _initializer(config: Any) -> Any:
    """Return the name of an initializer of Keras without arguments."""
    if not isinstance(config, dict) or config.get("module") != "keras.initializers":
        return config
    arguments = config.get("config", {}).values()
    return config if any(value is not None for value in arguments) else config["class_name"]
