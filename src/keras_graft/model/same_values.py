"""Whether two operations compute the same: their configurations, and their weights by value."""

from __future__ import annotations

import functools
import json
import math
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.model.configuration import code_of, digest, entries, is_array
from keras_graft.printable import shown

_NAMING = ("name", "build_config", "shared_object_id", "registered_name")
_CHUNK = 1 << 24
"""How many elements of a weight are compared at once."""
_SAMPLE = 16
_UNNAMED = re.compile(r"variable(_[0-9]+)?")


@dataclass(frozen=True)
class WeightChange:
    """A weight that has other values than before.

    Attributes:
        name: Its name within the layer.
        what: What differs, as text.
        size: How many elements it has.
    """

    name: str
    what: str
    size: int


def settings(operation: Any) -> dict[str, str]:
    """Return the configuration of an operation, entry by entry, as texts; names do not count."""
    found = entries(operation, _NAMING)
    found = {**found, **_options(operation)}
    if "dtype" in found:  # the name of a policy does count
        found["dtype"] = getattr(getattr(operation, "dtype_policy", None), "name", found["dtype"])
    held = {
        key: _code(value)
        for key, value in vars(operation).items()
        if _is_own_function(value) and not key.startswith("__")
    }
    found = {**found, **{key: code for key, code in held.items() if code is not None}}
    return {key: json.dumps(value, sort_keys=True, default=str) for key, value in found.items()}


def shapes(operation: Any) -> tuple[tuple[Any, ...], ...]:
    """Return the shapes and dtypes of the weights."""
    return tuple((tuple(w.shape), _dtype(w)) for w in _weights(operation))


def sample(operation: Any) -> tuple[bytes, ...]:
    """Return the first elements of each weight: two layers with different ones are not equal."""
    return tuple(
        np.ascontiguousarray(_numpy(_first(w.value, _SAMPLE))).tobytes()
        for w in _weights(operation)
    )


def changed_settings(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Say which entries of two configurations differ.

    A custom layer without a `get_config` cannot tell its own, at least once it was loaded.
    """
    if not before or not now:
        return []
    names = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return [f"{n} {_short(now.get(n))}, before {_short(before.get(n))}" for n in names]


def pairs(before: Any, now: Any) -> list[tuple[Any, Any]]:
    """Return pairs of weights: of equal names if each name is there once, else in order."""
    old, new = ({_name(w, i): w for i, w in enumerate(_weights(x))} for x in (before, now))
    if len(old) == len(_weights(before)) and len(new) == len(_weights(now)):
        return [(old[name], w) for name, w in new.items() if name in old]
    return list(zip(_weights(before), _weights(now), strict=False))


def changed_weight(before: Any, now: Any) -> WeightChange | None:
    """Compare two weights by value: exactly, where NaN equals NaN. None if they are equal.

    A large weight is compared in chunks, so little memory is taken.
    """
    if before is now or before.value is now.value:
        return None
    size = math.prod(now.shape)
    if tuple(before.shape) != tuple(now.shape):
        return WeightChange(
            now.name, f"shape {tuple(now.shape)}, before {tuple(before.shape)}", size
        )
    largest, nans, count = 0.0, 0, 0
    for a, b in _chunks(before.value, now.value):
        unlike = a != b
        unlike &= ~((a != a) & (b != b))  # NaN in both
        if a.dtype.kind == "f" and b.dtype.kind == "f":
            unlike |= (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))  # 0.0 and -0.0
        if not unlike.any():
            continue
        count += int(unlike.sum())
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(a[unlike].astype("float64") - b[unlike].astype("float64"))
        nans += int(np.isnan(apart).sum())
        largest = max(largest, float(np.nanmax(apart)) if not np.isnan(apart).all() else 0.0)
    if count == 0:
        if _dtype(before) == _dtype(now):
            return None
        return WeightChange(now.name, f"{_dtype(now)}, before {_dtype(before)}, equal values", size)
    parts = [f"differs by up to {largest:.3g}"] if count > nans else []
    parts += [f"{nans:,} NaN on one side"] if nans else []
    parts += [f"{_dtype(now)}, before {_dtype(before)}"] if _dtype(before) != _dtype(now) else []
    return WeightChange(now.name, ", ".join(parts), size)


def only_flag(operation: Any, said: list[str]) -> bool:
    """Whether only `trainable` differs, which changes nothing that this layer computes."""
    own = type(operation).__module__.startswith("keras.") and not _keras.sublayers(operation)
    return (
        own
        and "BatchNormalization" not in type(operation).__name__
        and all(text.startswith("trainable ") for text in said)
    )


def argument(leaf: Any) -> Any:
    """Return what stands for an argument of a call: equal for equal arrays and functions."""
    if is_array(leaf):
        return digest(leaf)
    if hasattr(leaf, "get_config"):
        return type(leaf).__name__, json.dumps(leaf.get_config(), sort_keys=True, default=str)
    if _is_own_function(leaf):
        return "function", json.dumps(_code(leaf), default=str)
    name = getattr(leaf, "__qualname__", None)
    if name is not None:
        return leaf.__module__, name
    text = repr(leaf)
    return type(leaf).__name__, "" if " at 0x" in text else text


def _options(operation: Any) -> dict[str, Any]:
    """Return what is called `name` in a configuration and names no layer: a dtype policy, an option.

    `entries` leaves it out. A fingerprint in a store was made so, and must stay as it is.
    """
    try:
        config = _keras.serialize(operation)["config"] if hasattr(operation, "get_config") else {}
    except Exception:  # a custom layer that cannot be written
        return {}
    return {f"name of {path}": name for path, name in _names(config, "")}


def _names(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        # A layer's own configuration has `trainable`, that of an input a batch shape.
        named = {"trainable", "class_name", "batch_shape"}.isdisjoint(config)
        if "name" in config and named and path:
            yield path, config["name"]
        for key, value in config.items():
            yield from _names(value, f"{path}/{key}" if path else str(key))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from _names(value, f"{path}/{number}")


def _is_own_function(value: Any) -> bool:
    """Whether something is a function that Keras's name for it does not tell."""
    if isinstance(value, functools.partial):
        return True
    own = isinstance(value, types.FunctionType) and not (value.__module__ or "").startswith(
        "keras."
    )
    return own and not hasattr(value, "__wrapped__")  # Keras wraps `build` and `quantize` itself


def _code(function: Any, depth: int = 0) -> Any:
    """Return what a function computes, as data: its code, its defaults and what it closes over."""
    if isinstance(function, functools.partial):
        values = [function.func, *function.args, *sorted(function.keywords.items())]
        return ["partial", *(_closed_over(value, depth) for value in values)]
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    values = [
        *(function.__defaults__ or ()),
        *sorted((function.__kwdefaults__ or {}).items()),
        *cells,
    ]
    return [code_of(function.__code__), *(_closed_over(value, depth) for value in values)]


def _closed_over(value: Any, depth: int) -> Any:
    if _is_own_function(value):
        return _code(value, depth + 1) if depth < 5 else value.__class__.__name__
    if isinstance(value, tuple | list):
        return [_closed_over(item, depth) for item in value]
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
    return argument(value) if plain or is_array(value) else type(value).__name__


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that has no value yet
        return False


def _weights(operation: Any) -> list[Any]:
    return list(getattr(operation, "weights", ()))


def _name(weight: Any, number: int) -> str:
    """Return the name of a weight; its number if Keras named it by what was made before."""
    return str(number) if _UNNAMED.fullmatch(weight.name) else weight.name


def _dtype(weight: Any) -> str:
    return str(keras.backend.standardize_dtype(weight.dtype))


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(values))


def _first(values: Any, count: int) -> Any:
    while len(values.shape) > 1 and math.prod(values.shape) > count:
        values = values[0]
    return values[:count] if len(values.shape) else values


def _chunks(a: Any, b: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield equal parts of two tensors as arrays, none much larger than `_CHUNK` elements."""
    size = math.prod(a.shape)
    if size <= _CHUNK or not a.shape:
        yield _numpy(a), _numpy(b)
        return
    rows = max(1, _CHUNK * a.shape[0] // size)
    for start in range(0, a.shape[0], rows):
        if rows == 1:
            yield from _chunks(a[start], b[start])
        else:
            yield _numpy(a[start : start + rows]), _numpy(b[start : start + rows])


def _short(text: str | None) -> str:
    if text is None:
        return "not set"
    return text if len(text) <= 40 else shown(json.loads(text))[:37] + "..."
