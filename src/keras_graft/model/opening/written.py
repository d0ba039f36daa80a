"""Restore what code writes into the attributes of a layer while it runs on symbolic tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft.graph.sizes import Doubt, leaves

_KERAS_OWN = {"_called", "_losses", "built", "_loss_ids"}
"""Attributes that Keras itself may set during a call."""


@contextlib.contextmanager
def restored(layer: Any) -> Iterator[None]:
    """Restore the attributes of a layer: its code may keep a tensor in one."""
    before = dict(vars(layer))
    try:
        yield
    finally:
        now = vars(layer)
        changed = {k for k, v in now.items() if k not in before or before[k] is not v}
        written = [k for k in changed if not _only_tensors(now[k]) and k not in _KERAS_OWN]
        for key in changed:
            if key in before:
                now[key] = before[key]
            else:
                del now[key]
        if written:
            raise Doubt(f"its code sets the attribute {sorted(written)[0]!r}")


def _only_tensors(value: Any) -> bool:
    return all(leaf is None or isinstance(leaf, keras.KerasTensor) for leaf in leaves(value))
