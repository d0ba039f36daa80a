"""Keras's private state for frozen layers: views of variables, and separate call contexts."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.layers import sublayers


class View(keras.Variable):
    """A variable that is never trained and always has the present value of another.

    The flag `trainable` belongs to a variable, and a model collects its variables by that flag.
    A model in which a layer is frozen, and the donor in which it is not, need two variables for
    one value. Uses `Variable._value`, `_trainable` (3.12 - 3.15): every backend keeps the value
    in the first, and the second is what `trainable` reads. On PyTorch the value is a parameter of
    its own in the same memory, for which no gradient is computed.
    """

    def __init__(self, source: Any) -> None:
        # The constructor would make a value.
        for key, value in vars(source).items():
            if key not in ("_value", "_seen") and not key.startswith(
                "_self_"
            ):  # TensorFlow's own bookkeeping
                self.__dict__[key] = value
        self.__dict__.update(_trainable=False, source=source)

    @property
    def _value(self) -> Any:
        value = self.source._value
        if type(value).__name__ != "Parameter":
            return value
        of, seen = self.__dict__.get("_seen", (None, None))
        if of is not value:
            seen = type(value)(value.detach(), requires_grad=False)
            self.__dict__["_seen"] = value, seen
        return seen

    @_value.setter
    def _value(self, value: Any) -> None:
        self.source._value = value

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Always False."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Do nothing: on PyTorch the flag would reach the donor's parameter."""


_made: weakref.WeakValueDictionary[int, View] = weakref.WeakValueDictionary()


def view(variable: Any) -> View:
    """Return the view of a variable, always the same object: models know variables by identity.

    JAX refuses a training step that gets one value twice.
    """
    if isinstance(variable, View):
        return variable
    found = _made.get(id(variable))
    if found is None or found.source is not variable:
        found = _made[id(variable)] = View(variable)
    return found


@contextlib.contextmanager
def own_call_context() -> Iterator[None]:
    """Call a layer as if from outside a model: its flags are not passed on.

    Keras passes a flag on to all layers that are called later in the same call of a model. Uses
    the global attribute `"current_call_ctx"` (3.12 - 3.15).
    """
    with call_context(None):
        yield


@contextlib.contextmanager
def call_context(context: Any) -> Iterator[None]:
    """Set Keras's current call context, and restore the previous one afterwards."""
    global_state = private.global_state
    before = global_state.get_global_attribute("current_call_ctx")
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


@contextlib.contextmanager
def inner_call() -> Iterator[None]:
    """Call a layer as if from inside another: it keeps the losses of its last call from outside.

    Uses `CallContext` and the global attribute `"current_call_ctx"` (3.12 - 3.15).
    """
    with own_call_context():
        if private.CallContext is not None:
            context = private.CallContext(entry_layer=None)
            private.global_state.set_global_attribute("current_call_ctx", context)
        yield


def call_as(layer: Any, inside: Any) -> None:
    """Let Keras bind the arguments of a layer's calls as those of the layer inside it.

    Otherwise Keras treats `*args` and `**kwargs` as one structure each, and refuses tensors mixed
    with other values there. Masks that Keras would fill in are left to the call of the layer
    inside. Uses `Layer._call_signature` (3.12 - 3.15).
    """
    own = inspect.signature(inside.call).parameters
    filled = {"mask", "training", *(f"{name}_mask" for name in own)}
    kept = [p for p in own.values() if p.name not in filled]
    if not any(p.kind is p.VAR_KEYWORD for p in kept):
        kept.append(inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD))
    layer._call_signature = inspect.Signature(kept)


def call_like(layer: Any, inside: Any) -> None:
    """Let Keras treat a layer's calls like those of the layer inside: flags and masks too.

    Uses what `Layer.__init__` keeps of the signature of `call`, `_convert_input_args` and
    `_allow_non_tensor_positional_args` (3.12 - 3.15).
    """
    for name in (
        "_call_signature", "call_signature_parameters", "_call_has_training_arg",
        "_call_has_mask_arg", "_call_context_args", "_call_has_context_arg", "_convert_input_args",
        "_allow_non_tensor_positional_args",
    ):  # fmt: skip
        if name in vars(inside):
            layer.__dict__[name] = vars(inside)[name]


def takes_masks_off(operation: Any) -> bool:
    """Whether an operation removes the masks from the tensors that it reads.

    `MultiHeadAttention.call` does (3.12 - 3.16), so layers that run later on the same tensor see
    none; a layer that has one inside may pass its input to it.
    """
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.Model):
        return False
    if isinstance(operation, keras.layers.MultiHeadAttention):
        return True
    return any(map(takes_masks_off, sublayers(operation)))


_ELEMENTWISE = (
    "keras.src.layers.activations", "keras.src.layers.regularization", "keras.src.layers.core.identity",
)  # fmt: skip


def is_elementwise(layer: Any) -> bool:
    """Whether a Keras layer works on each number separately (by its module, 3.12 - 3.16)."""
    return type(layer).__module__.startswith(_ELEMENTWISE)


def own_seeds(layer: Any) -> list[Any]:
    """Return the seed generators of a layer's own (`Layer._seed_generators`, 3.12 - 3.15)."""
    return list(getattr(layer, "_seed_generators", ()))
