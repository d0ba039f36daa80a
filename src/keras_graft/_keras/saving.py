"""Private state of Keras for addresses of weights: what a layer owns, and where a file keeps it."""

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
    """Return whether a variable holds anything (`Variable._value`, 3.12 - 3.15).

    On JAX a training step that fails has taken the values of what it was to update.
    """
    value = variable._value
    deleted = getattr(value, "is_deleted", None)  # of JAX alone
    return value is not None and not (callable(deleted) and deleted())


class _Paths(base("H5IOStore")):
    """A store that writes nothing: it keeps what Keras hands it, and where."""

    def __init__(self) -> None:
        self.contents: dict[str, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
        return self.contents.setdefault(path, {})


def saving_paths(model: Any) -> dict[str, Any]:
    """Return where a file of the model keeps each variable: `"layers/dense/vars/0"`.

    Uses `saving_lib._save_state`, `H5IOStore` (3.12 - 3.15). What a layer makes only to save it
    (a kernel merged with its LoRA) comes as that.
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
    """How many bytes of weights this thread's layers may still be given; None without a limit."""

    left: int | None = None
    error: TooLargeError | None = None


_ALLOWED = _Allowed()
_LOCK = threading.Lock()
_REPLACED: list[Any] = []
"""`Layer.add_weight` itself, once for each that has a limit now."""


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
    """Raise TooLargeError where layers made inside would be given more bytes of weights than that.

    Keras does not say how large a model is before it has made the weights (3.12 - 3.15), so
    `Layer.add_weight` is replaced meanwhile; other threads are not limited. Keras makes errors of
    its own of what is raised there, so the TooLargeError comes at the end.
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
