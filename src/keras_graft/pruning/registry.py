"""The rules: which axes of a call are coupled, by the class of the layer or the name of the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.pruning.call import Call, all_unwrapped
from keras_graft.ties.layer import plain_class

Rule = Callable[[Call], None]

LAYERS: dict[type, Rule] = {}
OPS: dict[str, Rule] = {}
NAMED: dict[tuple[str, str], Rule] = {}
"""Rules for classes that are not in `keras.layers`: by their package and name."""


def layers(*classes: type | None) -> Callable[[Rule], Rule]:
    """Register a rule for classes of layers; None for one that this Keras does not have."""

    def register(rule: Rule) -> Rule:
        LAYERS.update({cls: rule for cls in classes if cls is not None})
        return rule

    return register


def named(package: str, *names: str) -> Callable[[Rule], Rule]:
    """Register a rule for layers of a package by the names of their classes."""

    def register(rule: Rule) -> Rule:
        NAMED.update({(package, name): rule for name in names})
        return rule

    return register


def ops(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops of Keras by the names of their classes."""

    def register(rule: Rule) -> Rule:
        OPS.update(dict.fromkeys(names, rule))
        return rule

    return register


def layer_class(name: str) -> Any:
    """Return a class of `keras.layers`; None if this Keras does not have it."""
    return getattr(keras.layers, name, None)


def has_own_call(operation: Any) -> bool:
    """Whether a user gave one layer a `call` of its own: it may compute anything."""
    return isinstance(operation, keras.Layer) and "call" in vars(operation)


def rule_for(operation: Any) -> Rule | None:
    """Return the rule for an operation: for a class itself, as a subclass may compute anything."""
    layer = all_unwrapped(operation)
    if not isinstance(layer, keras.Layer):
        name = _keras.op_name(layer)
        own = type(layer).__module__.startswith("keras_graft.")
        name = type(layer).__name__ if own and name is None else name
        return None if name is None else OPS.get(name.rpartition(".")[2])
    if has_own_call(layer):
        return None
    cls = plain_class(type(layer))
    cls = cls.__dict__.get("graft_adapted", cls)
    return LAYERS.get(cls) or NAMED.get((cls.__module__.partition(".")[0], cls.__name__))
