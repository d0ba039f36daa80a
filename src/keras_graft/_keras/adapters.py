"""Low-rank adapters (LoRA) of a layer: factors whose product it adds to one of its weights.

There are two kinds: the one pair of a layer on which Keras's `enable_lora` was called, and the named
adapters of `kg.lora`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.adapted_variable import Adapted
from keras_graft._keras.layers import layers_inside
from keras_graft.graph.record import record_of


def sum_of(layer: Any, variable: Any) -> Adapted | None:
    """Return the sum that a layer uses in place of one of its weights since `kg.lora`."""
    sums = record_of(layer).sums
    # While a layer is copied without its adapters, plain variables are in their place.
    return next((s for s in sums if isinstance(s, Adapted) and s.source is variable), None)


def adapters_of(layer: Any, variable: Any) -> tuple[Any, ...]:
    """Return the factors whose products a layer adds to one of its weights: (a, b, a, b, ...).

    For those of Keras, uses `lora_enabled` and the names that `enable_lora` gives (3.12 - 3.16).
    """
    own = sum_of(layer, variable)
    if own is not None:
        return tuple(factor for part in own.parts for factor in (part.a, part.b))
    if not getattr(layer, "lora_enabled", False):
        return ()
    names = (f"lora_{variable.name}_{factor}" for factor in "ab")
    found = tuple(getattr(layer, name, None) for name in names)
    return () if any(factor is None for factor in found) else found


def factors_in(layer: Any) -> set[int]:
    """Return the identities of the factors that `kg.lora` gave a layer and those inside it."""
    sums = (one for inner in layers_inside(layer) for one in record_of(inner).sums)
    return {id(factor) for one in sums for factor in getattr(one, "factors", ())}


def is_adapter(variable: Any) -> bool:
    """Whether a weight is one of the two factors of a LoRA adapter."""
    return variable.name.startswith("lora_")


def scales_of(layer: Any, variable: Any) -> tuple[float, ...]:
    """Return the numbers that scale the products (`lora_alpha`, `lora_rank`; 3.12 - 3.16)."""
    own = sum_of(layer, variable)
    if own is not None:
        return tuple(part.scale for part in own.parts)
    return (layer.lora_alpha / layer.lora_rank,)


def with_adapters(
    layer: Any, variable: Any, value: Callable[[Any], Any] = lambda variable: variable.value
) -> Any:
    """Return the value of a weight plus what the adapters of its layer add, as Keras adds it.

    Args:
        layer: The layer that the weight belongs to.
        variable: The weight.
        value: Returns the value of a variable.
    """
    own = sum_of(layer, variable)
    if own is not None:
        return own.total(value)
    factors = adapters_of(layer, variable)
    if not factors:
        return value(variable)
    with private.AutocastScope(None):  # the sum is cast, not its terms
        a, b = map(value, factors)
        added: Any = keras.ops.matmul(a, b)
        total = keras.ops.add(value(variable), scales_of(layer, variable)[0] * added)
        return keras.ops.cast(total, variable.dtype)
