"""The fingerprint of a trunk: digests of its structure and of its weights."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import marshal
import types
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import ReadError
from keras_graft.graph.graph import Graph
from keras_graft.graph.node import Slot
from keras_graft.layers.frozen import Frozen
from keras_graft.model.calls import mapped
from keras_graft.model.read import read

_NAMING = ("name", "trainable", "build_config", "shared_object_id", "registered_name", "seed")


def fingerprint(trunk: Any) -> dict[str, str]:
    """Return digests of the structure and of the weights of a model.

    Names and flags do not count. A trunk has the same fingerprint frozen or not, and when the same
    code builds it in another session. A function that a Lambda closes over counts by its name.

    >>> import keras, keras_graft as kg
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> fingerprint(model) == fingerprint(kg.freeze(model))
    True
    """
    structure = hashlib.sha256()
    try:
        graph = read(trunk)
    except ReadError:  # a model with its own `call`
        structure.update(_config(trunk).encode())
        weights = trunk.weights
    else:
        structure.update(_structure(graph).encode())
        weights = graph.weights
    values = hashlib.sha256()
    for weight in weights:
        for part in _parts(weight.value):
            values.update(part)
    return {"structure": structure.hexdigest()[:16], "weights": values.hexdigest()[:16]}


def versions() -> dict[str, str]:
    """Return the versions that features may depend on."""
    return {
        "keras-graft": importlib.metadata.version("keras-graft"),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def _structure(graph: Graph) -> str:
    """Return how the outputs are computed, as a text that does not depend on the order of steps.

    The digest of a value is made from the digests of what it is computed from. So an unused step
    does not count, and equal steps count once, as those of masks in a loaded model.
    """
    place = {value.within(None): f"in{i}" for i, value in enumerate(graph.inputs)}
    first: dict[int, int] = {}
    for node in graph.steps:
        layer = node.operation.layer if isinstance(node.operation, Frozen) else node.operation
        holds = bool(getattr(layer, "variables", ()))
        same = first.setdefault(id(layer), len(first)) if holds else ""
        kwargs = {k: v for k, v in node.template.kwargs.items() if k != "training"}
        reads = [place.get(v, "?") for v in node.inputs]
        call = mapped(
            (node.template.args, kwargs),
            lambda leaf, reads=reads: reads[leaf.index] if isinstance(leaf, Slot) else _text(leaf),
        )
        inside = "" if node.nested is None else _structure(node.nested)
        config = _config(layer) if node.nested is None else ""
        line = f"as {same} {type(layer).__name__} {config} {_plain(call)} {inside}"
        digest = hashlib.sha256(line.encode()).hexdigest()
        place.update((value, f"{digest}:{i}") for i, value in enumerate(node.outputs))
    inputs = [str(value.spec) for value in graph.inputs]
    return f"{inputs} {[place.get(v.within(None), '?') for v in graph.outputs]}"


def _text(leaf: Any) -> str:
    """Return an argument as a text. Arrays are hashed: different ones may print the same."""
    leaf = _item(leaf)
    array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)
    return hashlib.sha256(b"".join(_parts(leaf))).hexdigest() if array else str(leaf)


def _item(value: Any) -> Any:
    """Return a NumPy number as a Python number, as a file holds it."""
    scalar = isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0
    return value.item() if scalar else value


def _parts(values: Any) -> tuple[bytes, Any]:
    """Return the bytes to hash of an array, or of a tensor of any backend."""
    array: Any = np.ascontiguousarray(keras.ops.convert_to_numpy(values))
    return f"{array.shape} {array.dtype};".encode(), array.reshape(-1).view(np.uint8)


def _config(layer: Any) -> str:
    if not isinstance(layer, keras.Layer):  # an op is its attributes
        plain = (bool, int, float, str, tuple, list, type(None))
        held = {k: _item(v) for k, v in vars(layer).items() if k != "name" and k[0] != "_"}
        own = {k: _plain(v) for k, v in held.items() if isinstance(v, plain)}
        own.update((k, _text(v)) for k, v in held.items() if isinstance(v, np.ndarray))
        return str(sorted(own.items()))
    try:
        with _keras.without_tensorflow():
            config: Any = keras.saving.serialize_keras_object(layer)
    except Exception:  # a custom layer that cannot be written counts by its class and weights
        return ""
    return json.dumps(_plain(config["config"]), sort_keys=True, default=str)


def _plain(config: Any) -> Any:
    """Return a configuration without names, as it is after saving and loading."""
    if isinstance(config, dict):
        function = _function(config)
        if function is not None:
            return function
        return {k: _plain(v) for k, v in config.items() if k not in _NAMING}
    return [_plain(v) for v in config] if isinstance(config, list | tuple) else _item(config)


def _function(config: dict[str, Any]) -> Any:
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

    def parts(constant: Any) -> Any:
        if isinstance(constant, types.CodeType):
            names = [*constant.co_names, *constant.co_freevars]
            return [constant.co_code.hex(), names, parts(constant.co_consts)]
        if isinstance(constant, frozenset):  # its order differs between sessions
            return sorted(map(repr, constant))
        return [parts(c) for c in constant] if isinstance(constant, tuple) else repr(constant)

    return [parts(code), _plain(raw[1]), _plain(raw[2])]
