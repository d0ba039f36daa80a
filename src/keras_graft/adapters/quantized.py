"""Adapters on quantized layers: Keras adds them to what the integers give (QLoRA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft import _keras

MODES = ("int8", "int4")
"""How a layer may be quantized to take an adapter, as for Keras's `enable_lora`."""

_LORA = ("lora_enabled", "lora_rank", "lora_alpha")


def is_quantized(layer: Any) -> bool:
    """Whether a layer computes with quantized weights."""
    return getattr(layer, "quantization_mode", None) is not None


def add_to_quantized(layer: Any, adapted: Any) -> None:
    """Let a quantized layer add adapters as Keras's own LoRA does.

    Args:
        layer: A `Dense`, `EinsumDense` or `Embedding` quantized to one of `MODES`.
        adapted: The sum over its quantized weight.
    """
    if not adapted.parts:
        return
    whole = isinstance(layer, keras.layers.EinsumDense)  # Keras splits its kernel in another way
    for second, letter in enumerate("ab"):
        name = f"lora_{adapted.name}_{letter}"
        layer.__dict__[name] = _keras.Joined(adapted, bool(second), whole)
    layer.__dict__.update(lora_enabled=True, lora_rank=1, lora_alpha=1)


def without_lora(layer: Any, like: Any) -> None:
    """Undo `add_to_quantized` in a copy of a layer."""
    found = [key for key, value in vars(like).items() if isinstance(value, _keras.Joined)]
    for key in found:
        del layer.__dict__[key]
    if found:
        layer.__dict__.update(lora_enabled=False, lora_rank=None, lora_alpha=None)


@contextlib.contextmanager
def as_saved(layer: Any) -> Iterator[None]:
    """Let Keras see no LoRA: it would merge the adapters into the integers that it saves."""
    before = {key: vars(layer)[key] for key in _LORA if key in vars(layer)}
    ours = any(isinstance(value, _keras.Joined) for value in vars(layer).values())
    if ours:
        layer.__dict__.update(lora_enabled=False, lora_rank=None, lora_alpha=None)
    try:
        yield
    finally:
        if ours:
            layer.__dict__.update(before)
