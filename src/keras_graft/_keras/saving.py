"""Keras's private state for saving: the weights that a layer owns, and their paths in a file."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.private import base


def automatic_name(layer: Any) -> str:
    """Return the name that Keras gives to the first layer of a class (`auto_name`, 3.12 - 3.15)."""
    return private.to_snake_case(type(layer).__name__)


def own_weights(layer: Any) -> list[Any]:
    """Return the weights of a layer itself, without those of the layers inside.

    Uses `Layer._trainable_variables`, `_non_trainable_variables` (3.12 - 3.15). The states of seed
    generators are in neither.
    """
    both = (*layer._trainable_variables, *layer._non_trainable_variables)
    return list({id(v): v for v in both}.values())


def has_value(variable: Any) -> bool:
    """Return whether a variable holds a value (`Variable._value`, 3.12 - 3.15).

    On JAX a training step that fails has deleted the values that it should have updated.
    """
    value = variable._value
    deleted = getattr(value, "is_deleted", None)  # only on JAX
    return value is not None and not (callable(deleted) and deleted())


class _Paths(base("H5IOStore")):
    """A store that writes nothing: it keeps the values that Keras stores, by their paths."""

    def __init__(self) -> None:
        self.contents: dict[str, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
        return self.contents.setdefault(path, {})


def saving_paths(model: Any) -> dict[str, Any]:
    """Return each variable of a model by its path in a file: `"layers/dense/vars/0"`.

    Uses `saving_lib._save_state`, `H5IOStore` (3.12 - 3.15). Where a layer makes a value only
    to save it (a kernel merged with its LoRA), that value is returned.
    """
    store = _Paths()
    private.save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    return {
        f"{path}/vars/{key}".lstrip("/"): value
        for path, found in store.contents.items()
        for key, value in found.items()
    }


class TooLargeError(Exception):
    """A model has more weights than were allowed."""


class _Allowed(threading.local):
    """How many bytes of weights this thread's layers may still get; None if there is no limit."""

    left: int | None = None
    error: TooLargeError | None = None


_ALLOWED = _Allowed()
_LOCK = threading.Lock()
_REPLACED: list[Any] = []
"""The original `Layer.add_weight`, once for each limit that is active now."""


def _limited(add_weight: Any) -> Any:
    @functools.wraps(add_weight)
    def limited(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if _ALLOWED.left is not None:
            shape = kwargs.get("shape") or ()
            shape = (shape,) if isinstance(shape, int) else tuple(shape)
            bits = re.search(r"\d+", str(kwargs.get("dtype") or layer.variable_dtype))
            _ALLOWED.left -= math.prod(shape) * max(1, int(bits.group()) // 8 if bits else 4)
            if _ALLOWED.left < 0:
                name = f"{type(layer).__name__} {layer.name!r}"
                _ALLOWED.error = TooLargeError(f"{name} would have a weight of the shape {shape}")
                raise _ALLOWED.error
        return add_weight(layer, *args, **kwargs)

    return limited


@contextlib.contextmanager
def weights_up_to(size: int) -> Iterator[None]:
    """Raise TooLargeError if layers made inside would get more than `size` bytes of weights.

    Keras does not say how large a model is before it has made the weights (3.12 - 3.15), so
    `Layer.add_weight` is replaced meanwhile; other threads are not limited. Keras replaces errors
    raised there with its own, so the TooLargeError is raised at the end.
    """
    with _LOCK:
        _REPLACED.append(_REPLACED[0] if _REPLACED else keras.Layer.add_weight)
        if len(_REPLACED) == 1:
            keras.Layer.add_weight = _limited(_REPLACED[0])
    before = _ALLOWED.left, _ALLOWED.error
    _ALLOWED.left, _ALLOWED.error = size, None
    try:
        yield
    finally:
        error = _ALLOWED.error
        _ALLOWED.left, _ALLOWED.error = before
        with _LOCK:
            add_weight = _REPLACED.pop()
            if not _REPLACED:
                keras.Layer.add_weight = add_weight
        if error is not None:
            raise error


def class_of_config(config: dict[str, Any], custom_objects: Any = None) -> type:
    """Return the class that a configuration names, found as Keras finds it.

    It imports nothing that Keras would not import. Uses
    `serialization_lib._retrieve_class_or_fn` (3.12 - 3.16).
    """
    return private.retrieve_class(
        config["class_name"], config["registered_name"], config["module"], obj_type="class",
        full_config=config, custom_objects=custom_objects,
    )  # fmt: skip
