"""Every keras_hub backbone with a tiny configuration, and inputs for it of two sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hub_multimodal
import hub_text
import hub_vision
import keras
import numpy as np

BACKBONES: dict[str, Callable[[], Any]] = {
    **hub_text.MAKERS,
    **hub_vision.MAKERS,
    **hub_multimodal.MAKERS,
}
"""Constructors by name."""

SIZES = ((2, 6), (3, 9))
"""Two pairs of a batch size and a length."""
FULL_LENGTH = {"SigLIP": 9}
"""Backbones that take texts of one length only."""


def sizes_of(name: str) -> list[tuple[int, int]]:
    """Return the batch sizes and lengths with which a backbone is compared."""
    return [(batch, FULL_LENGTH.get(name, length)) for batch, length in SIZES]


def make(name: str) -> Any:
    """Return a backbone with weights that always are the same and that hold no zeros.

    A bias or an adapter of zeros would hide that a layer is missing.
    """
    keras.utils.set_random_seed(1)
    model = BACKBONES[name]()
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        if variable.dtype.startswith(("float", "bfloat")):
            noise = keras.ops.convert_to_tensor(rng.normal(0, 0.05, variable.shape), variable.dtype)
            variable.assign(variable + noise)
    return model


def inputs_of(model: Any, size: tuple[int, int], seed: int = 0) -> Any:
    """Return inputs of a model for a batch size and a length, in the structure that it takes."""
    rng = np.random.default_rng(seed)
    if isinstance(model.input, dict):
        return {name: _one(name, x, size, rng) for name, x in sorted(model.input.items())}
    flat = [_one(x.name, x, size, rng) for x in keras.tree.flatten(model.input)]
    return keras.tree.pack_sequence_as(model.input, flat)


def _one(name: str, tensor: Any, size: tuple[int, int], rng: Any) -> Any:
    batch, length = size
    image = len(tensor.shape) >= 4
    free = 8 * (length // 3 + 2) if image else length  # of an image: 32, then 40
    shape = hub_multimodal.shape_of(name, tensor, size) or [
        batch, *(free if item is None else item for item in tensor.shape[1:])
    ]  # fmt: skip
    drawn = hub_multimodal.values_of(name, shape)
    if drawn is not None:
        return keras.ops.convert_to_tensor(drawn, dtype=tensor.dtype)
    if "float" in tensor.dtype:
        drawn = rng.normal(0, 1, shape)
    elif "mask" in name or "padding" in name:
        drawn = np.ones(shape)
        if len(shape) == 2 and shape[1] > 3:
            drawn[0, -2:] = 0
    elif "segment" in name or "label" in name:
        drawn = rng.integers(0, 2, shape)
    elif any(word in name for word in ("indices", "positions", "position_ids")):
        drawn = np.broadcast_to(np.arange(int(np.prod(shape[1:]))).reshape(shape[1:]), shape)
    else:
        drawn = rng.integers(1, 20, shape)
    return keras.ops.convert_to_tensor(drawn, dtype=tensor.dtype)
