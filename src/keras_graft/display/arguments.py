"""The arguments of a layer and of its call, as short texts and as a text that is equal for equal ones."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from keras_graft import _keras
from keras_graft.errors import GraftError
from keras_graft.graph.node import Node, Slot
from keras_graft.model.configuration import configuration, is_array, without
from keras_graft.printable import printable

_LONG = 80
_MANY = 24
_STARTS = re.compile(r"(^|_)initializers?$|^seed$|^name$|^trainable$")
"""Entries of a configuration that say how a layer starts or what it is called, not what it computes."""
_DROPS = re.compile(r"Drop|StochasticDepth")
_RATES = re.compile(r"rate|prob")


def arguments(operation: Any) -> tuple[list[list[str]], str]:
    """Return the arguments of a layer that are not its defaults, and its form.

    The form is a text that is equal for two layers that compute the same, apart from the values
    of their weights. Names, seeds and initial values do not count, nor do the rates of dropout,
    which many networks raise from block to block.
    """
    try:
        config = _keras.get_config(operation) if _is_layer(operation) else _attributes(operation)
    except GraftError:
        raise  # Keras moved
    except Exception:  # a custom layer that cannot be written down
        return [], ""
    defaults = _defaults(type(operation))
    rows = [
        [printable(key), _short(value)]
        for key, value in config.items()
        if not _STARTS.search(key) and not _is_default(key, value, defaults)
    ]
    return rows[:_MANY], _form(operation, config)


def call_arguments(node: Node) -> list[list[str]]:
    """Return the recorded arguments of a call that are no tensors, None or empty."""
    names = _parameters(type(node.operation))
    pairs = [
        (names[i] if i < len(names) else f"argument {i}", value)
        for i, value in enumerate(node.template.args)
    ]
    pairs += node.template.kwargs.items()
    return [[f"{printable(key)} (call)", _short(v)] for key, v in pairs if _holds_data(v)][:_MANY]


def _is_layer(operation: Any) -> bool:
    return hasattr(operation, "add_weight")


def _attributes(operation: Any) -> dict[str, Any]:
    """Return what an op of `keras.ops` was made with."""
    return {k: v for k, v in vars(operation).items() if k[0] != "_" and k != "name"}


def _form(operation: Any, config: Mapping[str, Any]) -> str:
    if not _is_layer(operation):
        return configuration(operation)
    drops = _DROPS.search(type(operation).__name__)
    kept = {
        key: value
        for key, value in config.items()
        if not _STARTS.search(key) and not (drops and _RATES.search(key))
    }
    return json.dumps(without(kept, ("name", "seed")), sort_keys=True, default=str)


def _is_default(key: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if key == "dtype":
        return _short(value) == "float32"
    if key == "activation" and value == "linear":
        return True
    if key == "data_format" and value == "channels_last":
        return True
    default = defaults.get(key, inspect.Parameter.empty)
    if isinstance(value, list | tuple) and isinstance(default, int) and value:
        return all(type(v) is type(default) and v == default for v in value)
    if isinstance(value, list) and isinstance(default, tuple):
        default = list(default)
    return type(value) is type(default) and bool(value == default)


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of a constructor, also of the classes above it."""
    found: dict[str, Any] = {}
    for cls in reversed(kind.__mro__):
        if "__init__" in vars(cls):
            for name, parameter in _signature(vars(cls)["__init__"]).items():
                if parameter.default is not inspect.Parameter.empty:
                    found[name] = parameter.default
    return found


@functools.cache
def _parameters(kind: type) -> list[str]:
    """Return the names of the positional parameters of a call."""
    call = getattr(kind, "call", None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [n for n, p in _signature(call).items() if p.kind in positional][1:]


def _signature(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _holds_data(value: Any) -> bool:
    """Whether an argument says something that no edge shows."""
    if isinstance(value, dict):
        return any(map(_holds_data, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_data, value))
    return value is not None and not isinstance(value, Slot)


def _short(value: Any) -> str:
    """Return an argument as a short text: a Keras object by its class, an array by its shape."""
    text = printable(_text(value))
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _text(value: Any) -> str:
    if is_array(value):
        return f"array {tuple(value.shape)}"
    if isinstance(value, dict) and "class_name" in value:
        config = value.get("config")
        name = config.get("name") if isinstance(config, dict) else config
        policy = value["class_name"] in ("DTypePolicy", "function")
        return str(name) if policy and name else str(value["class_name"])
    if isinstance(value, Slot):
        return f"input {value.index}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_text(v)}" for k, v in list(value.items())[:_MANY]) + "}"
    if isinstance(value, list | tuple):
        parts = ", ".join(_text(v) for v in value[:_MANY])
        return f"({parts})" if isinstance(value, tuple) else f"[{parts}]"
    try:
        return str(value)
    except Exception:  # an object of the user's own
        return type(value).__name__
