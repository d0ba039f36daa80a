"""The objects that an object refers to, as far as a copy of it must look."""

from __future__ import annotations

import dis
import functools
import inspect
import types
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_graft._keras import private

SHARED = (
    int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, np.ndarray,
    np.generic, types.BuiltinFunctionType, keras.DTypePolicy, keras.initializers.Initializer,
    keras.regularizers.Regularizer, keras.constraints.Constraint, keras.KerasTensor,
    keras.layers.InputSpec, inspect.Signature,
)  # fmt: skip
"""Types of values that a copy shares with its original: they are never changed."""


WRAPPED = ("build", "quantize")
"""Methods that `Layer.__new__` wraps in a function on each layer (3.12 - 3.15; from 3.16 on only
`build`)."""

NOT_TAKEN = {*WRAPPED, "_inbound_nodes", "_outbound_nodes", "_torch_params"}
"""Attributes of a layer that are not copied: a copy has its own."""


def parts(item: Any) -> list[Any]:
    """Return the objects that an object refers to directly."""
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return list(item)
    if isinstance(item, types.MethodType):
        return [item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, weakref.ref):
        return [item()]
    if isinstance(item, types.FunctionType):
        return around(item)
    if isinstance(item, SHARED):
        return []
    # Not through the nodes of a layer: they lead to everything that was called behind it.
    inside = [v for k, v in getattr(item, "__dict__", {}).items() if k not in NOT_TAKEN]
    names = [s for cls in type(item).__mro__ for s in _slots(cls)]
    return inside + [getattr(item, name) for name in names if hasattr(item, name)]


def first_held(value: Any, test: Callable[[Any], bool]) -> Any:
    """Return the first object that passes a test among all that `value` refers to, or None.

    It does not look inside layers: they stay what they are.
    """
    seen: dict[int, Any] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (*SHARED, keras.Variable)):
            continue
        seen[id(item)] = item
        if test(item):
            return item
        if not isinstance(item, private.KerasSaveable):
            stack += parts(item)
    return None


@functools.cache
def _slots(cls: type) -> tuple[str, ...]:
    """Return the slots of a class that was written in Python."""
    slots = cls.__dict__.get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(s for s in slots if isinstance(cls.__dict__.get(s), types.MemberDescriptorType))


def around(function: Any) -> list[Any]:
    """Return what a function uses besides its arguments: defaults, closure, globals."""
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # a variable that was never assigned
            continue
    if not (function.__module__ or "").startswith(("keras.", "tensorflow.", "jax.", "torch.")):
        known = function.__globals__
        found += [known[name] for name in _globals(function.__code__) if name in known]
    return found


@functools.cache
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that a function's code looks up in its module."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    return tuple(dict.fromkeys([*own, *(name for c in inner for name in _globals(c))]))


def is_torch_module(cls: type) -> bool:
    """Whether a class is one of PyTorch's modules."""
    return any(
        c.__name__ == "Module" and c.__module__ == "torch.nn.modules.module" for c in cls.__mro__
    )
