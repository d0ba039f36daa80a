"""What an operation and its arguments are, as texts that are equal for equal ones."""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import types
from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import GraftError


def configuration(operation: Any, ignored: Collection[str] = ()) -> str:
    """Return the configuration of a layer, or the attributes of an op.

    Args:
        operation: The layer or op.
        ignored: Entries that do not count, at any depth.
    """
    found = entries(operation, ignored)
    if not isinstance(operation, keras.Layer):
        return str(sorted(found.items()))
    return json.dumps(found, sort_keys=True, default=str) if found else ""


def entries(operation: Any, ignored: Collection[str] = ()) -> dict[str, Any]:
    """Return the entries of the configuration of a layer, or the attributes of an op.

    It is empty for a custom layer that cannot be written.
    """
    if not isinstance(operation, keras.Layer):
        plain = (bool, int, float, str, tuple, list, type(None))
        held = {k: _item(v) for k, v in vars(operation).items() if k != "name" and k[0] != "_"}
        own = {k: without(v, ignored) for k, v in held.items() if isinstance(v, plain)}
        own.update((k, digest(v)) for k, v in held.items() if isinstance(v, np.ndarray))
        return own
    try:
        config = without(_keras.serialize(operation)["config"], ignored)
        json.dumps(config, sort_keys=True, default=str)
        return config
    except GraftError:
        raise  # Keras moved
    except Exception:  # a custom layer that cannot be written counts by its class and weights
        return {}


def without(config: Any, ignored: Collection[str]) -> Any:
    """Return a configuration without some entries, as it is after saving and loading."""
    if isinstance(config, dict):
        function = _function(config, ignored)
        if function is not None:
            return function
        return {k: without(v, ignored) for k, v in config.items() if k not in ignored}
    if isinstance(config, list | tuple):
        return [without(v, ignored) for v in config]
    return _item(config)


def text(leaf: Any) -> str:
    """Return an argument as a text. Arrays are hashed: different ones may print the same."""
    leaf = _item(leaf)
    return digest(leaf) if is_array(leaf) else str(leaf)


def is_array(leaf: Any) -> bool:
    """Whether an argument is an array, or a tensor of any backend."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)


def digest(array: Any) -> str:
    """Return a digest of the shape, dtype and elements of an array."""
    return hashlib.sha256(b"".join(to_hash(array))).hexdigest()


def to_hash(values: Any) -> tuple[bytes, Any]:
    """Return the bytes to hash of an array, or of a tensor of any backend."""
    array: Any = np.ascontiguousarray(keras.ops.convert_to_numpy(values))
    return f"{array.shape} {array.dtype};".encode(), array.reshape(-1).view(np.uint8)


def _item(value: Any) -> Any:
    """Return a NumPy number as a Python number, as a file holds it."""
    scalar = isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0
    return value.item() if scalar else value


def _function(config: dict[str, Any], ignored: Collection[str]) -> Any:
    """Return what an anonymous function computes, from how Keras writes it; None for all else.

    The bytes themselves cannot be compared: they also hold reference counts. A Lambda layer has
    three entries for code, defaults and closure; all else has a list of the three. Functions in
    the closure have names.
    """
    raw = config.get("value", [config.get(key) for key in ("code", "defaults", "closure")])
    if not (isinstance(raw, list | tuple) and len(raw) == 3 and isinstance(raw[0], str)):
        return None
    try:
        code = marshal.loads(base64.b64decode(raw[0]))
    except (ValueError, EOFError, TypeError):
        return None
    if not isinstance(code, types.CodeType):
        return None

    return [code_of(code), without(raw[1], ignored), without(raw[2], ignored)]


def code_of(constant: Any) -> Any:
    """Return compiled code as data that is equal for equal code, in other sessions too."""
    if isinstance(constant, types.CodeType):
        names = [*constant.co_names, *constant.co_freevars]
        return [constant.co_code.hex(), names, code_of(constant.co_consts)]
    if isinstance(constant, frozenset):  # its order differs between sessions
        return sorted(map(repr, constant))
    return [code_of(c) for c in constant] if isinstance(constant, tuple) else repr(constant)
