"""Compile a model again after its trainable variables changed, with the optimizer's state."""

from __future__ import annotations

from typing import Any

from keras_graft.weights.carry_optimizer import carry_optimizer, fresh
from keras_graft.weights.trained import Trained, options_of


def go_on_training(old: Any, new: Any) -> None:
    """Compile `new` as `old` is compiled, with its optimizer's state; do nothing if it is not.

    An optimizer that made no step has no state: then the new model gets one like it.

    Raises:
        WeightsError: If the optimizer, or a metric, cannot be made again.
    """
    if not getattr(old, "compiled", False) or getattr(old, "optimizer", None) is None:
        return
    if old.optimizer.built:
        carry_optimizer(old, new)
    else:
        before = Trained(old.optimizer, old)
        optimizer = fresh(before, new, {})
        options = options_of(before, new)
        new.compile(optimizer=optimizer, auto_scale_loss=False, **options)
