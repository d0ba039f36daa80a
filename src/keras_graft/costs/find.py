"""`rule_of`: which rule counts an operation."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.costs import (  # noqa: F401  # noqa: F401
    attention,
    convolution,
    elementwise,
    other_layers,
    own_layers,
    products,
    recurrent,
)
from keras_graft.costs.work import RULES, Rule
from keras_graft.graph.record import unwrapped
from keras_graft.layers.dynamic_op import DynamicOp

_CODE = ("call", "_compute_attention", "_calculate_scores", "_apply_scores", "convolution_op")
"""Methods that say what a layer computes: the rule of a class holds for a subclass with the same."""


def rule_of(operation: Any) -> Rule | None:
    """Return the rule for an operation; None if there is none.

    The rule of a class holds for a subclass too, unless that has code of its own.
    """
    operation = unwrapped(operation)
    if isinstance(operation, DynamicOp):
        return RULES.get(operation.sized.name) if operation.sized.target[:3] == "op:" else _MADE
    if not isinstance(operation, keras.Layer):
        found = RULES.get(type(operation))
        return found or RULES.get(_keras.op_name(operation) or "")
    for cls in type(operation).__mro__:
        found = RULES.get(cls)
        if found is not None:
            return found if _same_code(type(operation), cls) else None
    return None


_MADE = Rule(elementwise.nothing, "makes a tensor, and computes none")


def _same_code(cls: type, known: type) -> bool:
    return all(_plain(cls, name) is _plain(known, name) for name in _CODE)


def _plain(cls: type, name: str) -> Any:
    return getattr(getattr(cls, name, None), "__wrapped__", getattr(cls, name, None))
