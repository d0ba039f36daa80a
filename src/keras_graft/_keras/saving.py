"""Private state of Keras for addresses of weights: what a layer owns, and where a file keeps it."""

from __future__ import annotations

from typing import Any

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
