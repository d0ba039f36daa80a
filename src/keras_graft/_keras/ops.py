"""The ops of Keras by name, and as data."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import keras


def function_named(name: str, random: bool) -> Any:
    """Return the public function of Keras that makes or draws a tensor."""
    return getattr(keras.random if random else keras.ops, name)


def bound(name: str, random: bool, function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a function of the backend by the names that the public one has."""
    given = inspect.signature(inspect.unwrap(function)).bind(*args, **kwargs).arguments
    public = inspect.signature(inspect.unwrap(function_named(name, random))).parameters
    renamed = dict(zip(given, given.values(), strict=True))
    first, *_ = public
    if first not in renamed and renamed:
        renamed = {first if i == 0 else k: v for i, (k, v) in enumerate(renamed.items())}
    return {k: v for k, v in renamed.items() if k in public}


@functools.cache
def _ops() -> dict[str, type]:
    found: dict[str, type] = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("keras.src.ops"):
            continue
        for key, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == name
            if own and issubclass(value, keras.Operation) and not issubclass(value, keras.Layer):
                found[f"{name.removeprefix('keras.src.ops.')}.{key}"] = value
    return found


def op_class(name: str) -> type | None:
    """Return the class of an op of Keras by the name that `op_name` gives."""
    return _ops().get(name)


def op_name(op: Any) -> str | None:
    """Return a name for the class of an op of Keras, such as `"numpy.Reshape"`."""
    cls = type(op)
    name = f"{cls.__module__.removeprefix('keras.src.ops.')}.{cls.__name__}"
    return name if _ops().get(name) is cls else None


def bare_op(cls: type, attributes: dict[str, Any], name: str) -> Any:
    """Return an op with these attributes, made without its constructor.

    Uses `Operation._inbound_nodes`, `_outbound_nodes` (3.12 - 3.15).
    """
    op = object.__new__(cls)
    op.__dict__.update(attributes, name=name, _inbound_nodes=[], _outbound_nodes=[])
    return op


def op_attributes(op: Any) -> dict[str, Any]:
    """Return the attributes of an op that say what it does."""
    return {k: v for k, v in vars(op).items() if k != "name" and not k.startswith("_")}


def is_new_op(op: Any) -> bool:
    """Whether an op was not called yet in any model (`Operation._inbound_nodes`, 3.12 - 3.15)."""
    return not op._inbound_nodes


def copying_op() -> Any:
    """Return a new op that does what `ops.copy` does (`keras.src.ops.numpy.Copy`, 3.12 - 3.16)."""
    op = _ops()["numpy.Copy"]()
    op.name = "copy"  # Keras counts names: the same code would be read with others each time
    return op
