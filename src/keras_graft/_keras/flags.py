"""Training flags in Keras: which layers set the flag for layers that are called later.

Up to Keras 3.15 a call without a flag takes the default of the layer's `call`, records it, and
passes it on to every layer that is called later in the same call of a model. `Resizing`,
`CenterCrop` and all random preprocessing layers have `training=True` as their default: behind them
a model that is called without a flag runs in training mode. From 3.16 on a default stays with its
layer, and a recorded flag wins under `fit`, so no flag may be recorded there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_graft._keras.layers import sublayers
from keras_graft._keras.nodes import functional, nodes
from keras_graft._keras.views import call_context


class _Unsaid(int):
    """The flag of a call that was given none; it counts as false."""


UNSAID = _Unsaid(0)


class _Context:
    """A call context with a fixed flag; it only notes what is set (`CallContext`, 3.12 - 3.16)."""

    entry_layer = None

    def __init__(self, flag: Any) -> None:
        self.flag = flag
        self.taken: dict[str, Any] = {}

    def get_value(self, name: str, default: Any = None) -> Any:
        return self.flag if name == "training" else default

    def set_value(self, name: str, value: Any) -> None:
        self.taken[name] = value


@functools.cache
def defaults_leak() -> bool:
    """Whether this Keras passes the default of one layer on to layers that are called later."""

    class Default(keras.layers.Layer):
        def call(self, inputs: Any, training: bool = True) -> Any:
            return inputs

    context = _Context(None)
    with call_context(context):
        Default(name="default")(keras.KerasTensor((1,)))
    return bool(context.taken.get("training"))


@contextlib.contextmanager
def flags_apart() -> Iterator[None]:
    """Let symbolic calls record only the flags that they are given: see `settle_flags`."""
    with call_context(_Context(UNSAID)) if defaults_leak() else contextlib.nullcontext():
        yield


def settle_flags(steps: Sequence[Any]) -> None:
    """Set the recorded flags in the Keras nodes of calls made under `flags_apart`.

    A flag that was given stays. If none was given, and the layer would set one for all later
    calls, `False` is recorded: under `fit` Keras replaces it with its own flag. Uses
    `Node.arguments` (3.12 - 3.16).
    """
    for step in steps:
        kwargs = step.arguments.kwargs
        if kwargs.get("training", UNSAID) is not UNSAID:
            continue
        kept = {name: value for name, value in kwargs.items() if name != "training"}
        if defaults_leak() and needs_flag(step.operation):
            kept["training"] = False
        step.arguments.kwargs = kept


def default_flag(operation: Any) -> Any:
    """Return the `training` default of a layer's `call` (`Layer._call_signature`, 3.12 - 3.16)."""
    signature = getattr(operation, "_call_signature", None)
    parameter = None if signature is None else signature.parameters.get("training")
    default = None if parameter is None else parameter.default
    return None if parameter is None or default is parameter.empty else default


def leaves_flag(operation: Any) -> bool:
    """Whether a layer that is called without a flag sets one for layers that are called later."""
    return defaults_leak() and _flags_inside(operation)[0]


def needs_flag(operation: Any) -> bool:
    """Whether a layer must be called with a flag, as it would set one for later calls otherwise.

    False if a layer inside was put into training mode on purpose: it must stay in it.
    """
    found, told = _flags_inside(operation)
    return found and not told


def _flags_inside(operation: Any) -> tuple[bool, bool]:
    """Return whether a default sets a flag, and whether a flag was recorded on purpose."""
    if not isinstance(operation, keras.Layer):
        return False, False
    if default_flag(operation):
        return True, False
    graph = functional(operation)
    if graph is None:
        inside = [_flags_inside(layer) for layer in sublayers(operation)]
        return any(found for found, _ in inside), any(told for _, told in inside)
    found = told = False
    for node in nodes(graph):
        flag, default = node.arguments.kwargs.get("training"), default_flag(node.operation)
        if flag:
            found, told = found or bool(default), told or not default
        elif flag is None:
            inner = _flags_inside(node.operation)
            found, told = found or inner[0], told or inner[1]
    return found, told
