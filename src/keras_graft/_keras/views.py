"""Keras's private state for frozen layers: views of variables, and separate call contexts."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft._keras import private


class _Seen(keras.Variable):
    """A variable that always has the present value of another, and a flag `trainable` of its own.

    The flag belongs to a variable, and a model collects its variables by that flag. A model that
    trains a layer, and one that does not, need two variables for one value. Uses
    `Variable._value`, `_trainable` (3.12 - 3.15): every backend keeps the value in the first, and
    the second is what `trainable` reads. On PyTorch, where the flag is part of the parameter, it
    has a parameter of its own in the same memory.
    """

    def __init__(self, source: Any, trainable: bool) -> None:
        # The constructor would make a value. What starts with "_self_" is TensorFlow's bookkeeping.
        for key, value in vars(source).items():
            if key not in ("_value", "_own") and not key.startswith("_self_"):
                self.__dict__[key] = value
        self.__dict__.update(_trainable=trainable, source=source)

    @property
    def _value(self) -> Any:
        value = self.source._value
        if type(value).__name__ != "Parameter":
            return value
        of, own = self.__dict__.get("_own", (None, None))
        if of is not value or own.data_ptr() != value.data_ptr():
            own = type(value)(value.detach(), requires_grad=self._trainable)
            self.__dict__["_own"] = value, own
        return own

    @_value.setter
    def _value(self, value: Any) -> None:
        self.source._value = value


class View(_Seen):
    """A variable that is never trained and always has the present value of another."""

    def __init__(self, source: Any) -> None:
        super().__init__(source, trainable=False)

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Always False."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        """Do nothing: it stays a view."""


class Thawed(_Seen):
    """A variable that is trained, and always has the present value of one that may be frozen.

    To the model that has it, it is a variable like any other.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source, trainable=True)

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Whether it is trained, whatever the other variable's flag is."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.__dict__["_trainable"] = bool(value)
        if "_own" in self.__dict__:
            self._own[1].requires_grad = bool(value)


_made: weakref.WeakValueDictionary[int, View] = weakref.WeakValueDictionary()
_thawed: weakref.WeakValueDictionary[int, Thawed] = weakref.WeakValueDictionary()


def view(variable: Any) -> View:
    """Return the view of a variable, always the same object: models know variables by identity.

    JAX refuses a training step that gets one value twice.
    """
    return variable if isinstance(variable, View) else _seen(View, _made, variable)


def thawed(variable: Any) -> Thawed:
    """Return the variable that is trained in place of a frozen one, always the same object."""
    return _seen(Thawed, _thawed, variable)


def _seen(cls: Any, made: Any, variable: Any) -> Any:
    found = made.get(id(variable))
    if found is None or found.source is not variable:
        found = made[id(variable)] = cls(variable)
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
    """Whether the `call` of an operation removes the masks from the tensors that it reads.

    That of `MultiHeadAttention` does (3.12 - 3.16): calls that run later on the same tensor find none.
    """
    attention = keras.layers.MultiHeadAttention
    return isinstance(operation, attention) and type(operation).call is attention.call


def is_cast(layer: Any, tensor: Any) -> bool:
    """Whether Keras casts a tensor for a layer, so that the layer gets a new one.

    Uses `Layer._convert_input_args` (3.12 - 3.16).
    """
    floats = "float" in tensor.dtype and layer.autocast and layer._convert_input_args
    return bool(floats and tensor.dtype != layer.input_dtype)


_ELEMENTWISE = (
    "keras.src.layers.activations", "keras.src.layers.regularization", "keras.src.layers.core.identity",
)  # fmt: skip


def is_elementwise(layer: Any) -> bool:
    """Whether a Keras layer works on each number separately (by its module, 3.12 - 3.16)."""
    return type(layer).__module__.startswith(_ELEMENTWISE)


def own_seeds(layer: Any) -> list[Any]:
    """Return the seed generators of a layer's own (`Layer._seed_generators`, 3.12 - 3.15)."""
    return list(getattr(layer, "_seed_generators", ()))
