"""LoRA adapters of a layer: two factors whose product it adds to one of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_graft._keras import private


def adapters_of(layer: Any, variable: Any) -> tuple[Any, ...]:
    """Return the two factors whose product a layer adds to one of its weights, or nothing.

    Uses `lora_enabled` and the names that `enable_lora` gives (3.12 - 3.15).
    """
    if not getattr(layer, "lora_enabled", False):
        return ()
    names = (f"lora_{variable.name}_{factor}" for factor in "ab")
    found = tuple(getattr(layer, name, None) for name in names)
    return () if any(factor is None for factor in found) else found


def is_adapter(variable: Any) -> bool:
    """Whether a weight is one of the two factors of a LoRA adapter."""
    return variable.name.startswith("lora_")


def scale_of(layer: Any) -> float:
    """Return the number that scales the product (`lora_alpha`, `lora_rank`; 3.12 - 3.15)."""
    return layer.lora_alpha / layer.lora_rank


def with_adapters(
    layer: Any, variable: Any, value: Callable[[Any], Any] = lambda variable: variable.value
) -> Any:
    """Return the value of a weight plus what the adapters of its layer add, as Keras adds it.

    Args:
        layer: The layer that the weight belongs to.
        variable: The weight.
        value: Returns the value of a variable.
    """
    factors = adapters_of(layer, variable)
    if not factors:
        return value(variable)
    with private.AutocastScope(None):  # the sum is cast, not its terms
        a, b = map(value, factors)
        added: Any = keras.ops.matmul(a, b)
        total = keras.ops.add(value(variable), scale_of(layer) * added)
        return keras.ops.cast(total, variable.dtype)
