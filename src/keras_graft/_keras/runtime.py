"""Private state while a layer runs on data: losses, the autocast scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from keras_graft._keras import private


@contextlib.contextmanager
def losses_kept(layer: Any) -> Iterator[None]:
    """Restore what a layer and those inside it keep of the losses of their last call.

    Uses `Layer._losses`, `_loss_ids` (3.12 - 3.15).
    """
    layers = list(layer._flatten_layers())
    before = [(one, list(one._losses), set(one._loss_ids)) for one in layers]
    try:
        yield
    finally:
        for one, losses, ids in before:
            one._losses[:] = losses
            one._loss_ids.clear()
            one._loss_ids.update(ids)


def take_losses(layers: Iterable[Any]) -> list[Any]:
    """Return the losses that layers added in their last calls, and forget them.

    Uses `Layer._losses`, `_loss_ids` (3.12 - 3.15).
    """
    found: list[Any] = []
    for layer in layers:
        found += layer._losses
        layer._losses.clear()
        layer._loss_ids.clear()
    return found


def autocast_of(layer: Any) -> Any:
    """Return a scope in which variables are read as they are in the `call` of a layer."""
    if not layer.autocast or layer.compute_dtype == layer.variable_dtype:
        return contextlib.nullcontext()
    return private.AutocastScope(layer.compute_dtype)
