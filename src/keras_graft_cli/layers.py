"""Layers as words of a command line: `GELU`, `Dropout:0.2`, `Dense:64,activation=relu`, or JSON.

Nothing is evaluated: values are numbers, words, true, false, none, and lists of these.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from keras_graft_cli.errors import UsageError

_FORMS = "GELU, Dropout:0.2 or Dense:64,activation=relu"


def layer_maker(text: str) -> Callable[[], Any]:
    """Return a function that makes a new layer each time.

    Args:
        text: A class of `keras.layers` or a registered one, after a colon the values of its
            arguments in their order, then by name; the name of an activation; or the JSON that
            `keras.layers.serialize` gives.

    Raises:
        UsageError: If there is no such class or argument, or if Keras does not accept a value. The
            layer is made once to find out.
    """
    if text.lstrip().startswith("{"):
        make = _from_json(text)
    else:
        name, colon, given = text.partition(":")
        cls, first = _class(name.strip())
        values, named = _arguments(text, given) if colon else ([], {})
        _check_names(text, cls, named)

        def make() -> Any:
            return cls(*first, *values, **named)

    try:
        made = make()
    except Exception as error:
        raise UsageError(f"The layer {text!r} cannot be made: {_first_line(error)}") from error
    _check_layer(text, made)
    return make


def _class(name: str) -> tuple[Any, list[Any]]:
    """Return a layer class and the first values of its arguments."""
    import keras

    from keras_graft.graph.names import nearest

    classes = {
        k: v for k, v in vars(keras.layers).items()
        if isinstance(v, type) and issubclass(v, keras.Layer)
    }  # fmt: skip
    registered: dict[str, list[str]] = {}
    for key, value in keras.saving.get_custom_objects().items():
        if isinstance(value, type) and issubclass(value, keras.Layer):
            classes[key] = value
            registered.setdefault(key.rpartition(">")[2], []).append(key)
    for short, keys in registered.items():
        if len(keys) == 1:
            classes.setdefault(short, classes[keys[0]])
        elif name == short and name not in vars(keras.layers):
            raise UsageError(f"Several layers are named {name!r}: {', '.join(keys)}. Name one so.")
    if name in classes:
        return classes[name], []
    activations = {
        k: v for k, v in vars(keras.activations).items()
        if callable(v) and not k.startswith("_") and k not in ("get", "serialize", "deserialize")
    }  # fmt: skip
    plain = {k.replace("_", "").lower(): k for k in activations}
    if name.replace("_", "").lower() in plain:
        return keras.layers.Activation, [plain[name.replace("_", "").lower()]]
    near = nearest(name, [*classes, *activations])
    hint = f" Nearest: {', '.join(near)}." if near else ""
    raise UsageError(
        f"Keras has no layer and no activation {name!r}.{hint} Layers are written as {_FORMS}; your "
        "own need --import MODULE."
    )


def _arguments(text: str, given: str) -> tuple[list[Any], dict[str, Any]]:
    values: list[Any] = []
    named: dict[str, Any] = {}
    for part in _split(text, given):
        key, equals, value = part.partition("=")
        if equals and re.fullmatch(r"\s*[A-Za-z_]\w*\s*", key):
            named[key.strip()] = _value(text, value)
        elif named:
            raise UsageError(
                f"The layer {text!r}: {part.strip()!r} needs a name, as the one before."
            )
        else:
            values.append(_value(text, part))
    return values, named


def _split(text: str, given: str) -> list[str]:
    """Split at commas that lie in no brackets and no quotes."""
    parts, start, depth, quote = [], 0, 0, ""
    for at, character in enumerate(given):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(given[start:at])
            start = at + 1
        if depth < 0:
            break
    parts.append(given[start:])
    if depth or quote:
        raise UsageError(f"The layer {text!r}: a bracket or a quote is not closed.")
    if not all(part.strip() for part in parts):
        raise UsageError(f"The layer {text!r}: a value is missing. Layers are written as {_FORMS}.")
    return parts


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def _value(text: str, written: str) -> Any:
    """Return a value: a number, a word, a quoted text, or a list or tuple of values."""
    written = written.strip()
    if len(written) > 1 and written[0] + written[-1] in ("()", "[]"):
        inner = written[1:-1].strip().rstrip(",")
        items = [_value(text, part) for part in _split(text, inner)] if inner else []
        return tuple(items) if written[0] == "(" else items
    if len(written) > 1 and written[0] == written[-1] and written[0] in "\"'":
        return written[1:-1]
    if written.lower() in _WORDS:
        return _WORDS[written.lower()]
    for number in (int, float):
        try:
            return number(written)
        except ValueError:
            pass
    return written


def _check_names(text: str, cls: Any, named: dict[str, Any]) -> None:
    """Refuse an argument that a class does not have: many take any name, and fail later."""
    from keras_graft.graph.names import nearest

    known = list(inspect.signature(cls.__init__).parameters)[1:]
    known = [n for n in known if n not in ("args", "kwargs")]
    allowed = {*known, "name", "dtype", "trainable"}
    for name in named:
        if name not in allowed:
            near = nearest(name, sorted(allowed)) or known[:6]
            raise UsageError(
                f"The layer {text!r}: {cls.__name__} has no argument {name!r}. Nearest: "
                f"{', '.join(near)}."
            )


def _from_json(text: str) -> Callable[[], Any]:
    import keras

    try:
        config = json.loads(text)
    except ValueError as error:
        raise UsageError(f"The layer's JSON cannot be read: {error}.") from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise UsageError(
            "The layer's JSON has no class_name: give what keras.layers.serialize gives."
        )
    return lambda: keras.saving.deserialize_keras_object(config, safe_mode=True)


def _check_layer(text: str, made: Any) -> None:
    import keras

    if not isinstance(made, keras.Layer):
        raise UsageError(f"{text!r} gives a {type(made).__name__}, not a layer.")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
